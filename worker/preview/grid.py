"""A preview: the weights that λ × preset × batch size would give, from cached scores alone, with all that is wrong with them."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import InvalidInput
from app.domain.events import FindingRaised
from app.domain.findings import find_flat_rewards, find_inverted_rewards, find_truncated_pairs, raise_finding
from app.domain.preview.weights import MOST_CELLS, PreviewJob, PreviewRequest, PreviewResult, Suggestion
from app.domain.problems import parse
from app.domain.scoring import RewardCheck, describe_disagreement, describe_foreign
from app.domain.weighting import Preset, WeightSettings, find_draws_fault
from worker.preview.batches import BatchStack, Grouping, find_repetition, group, layout_of, stack_groups
from worker.preview.cells import CellNumbers, draft, tally
from worker.preview.scores import Kept, KeptScorings, Noisy, add_noise, find_broken_certificate
from worker.preview.texts import read_excerpts
from worker.stages.scoring.origins import compare_origins
from worker.stages.scoring.reward_check import check_rewards, pair_up
from worker.var.candidates import WeightChoices
from worker.var.certificate import holds_for
from worker.var.lambdas import (
    LAMBDA_BATCHES,
    SMALLEST_LAMBDA,
    TargetUnreachable,
    fall_back,
    find_stacked_lambda,
    refuse_extreme,
)
from worker.var.stacks import TooSmallLambda


def preview(job: PreviewJob, kept: KeptScorings | None = None) -> PreviewResult:
    """Return the whole preview. Raises InvalidInput when the scores can't serve the request, NotFound when they are gone.

    `kept` holds scorings that were read before.
    """
    start = time.monotonic()
    request = parse(PreviewRequest, job.request, InvalidInput)
    sizes = request.batch_sizes or [job.batch_size]
    num_cells = len(request.presets) * len(request.lambdas) * len(sizes)
    if num_cells > MOST_CELLS:
        raise InvalidInput.at("lambda", f"{num_cells} cells are too many for one preview: ask for at most {MOST_CELLS}.")
    kept = kept or KeptScorings()
    noisy = add_noise(kept.load(job), request)
    every = {preset: read_choices(preset, request, job.reward_source) for preset in request.presets}
    for preset, asked in every.items():
        check_served(noisy, preset, asked.choices, request.lambdas, sizes, job.batch_size)
    drawn = load_drawn(kept, job, request) if any(layout_of(asked.choices) == "drawn" for asked in every.values()) else None
    finished: list[tuple[CellNumbers, Noisy]] = []
    suggestions: list[Suggestion] = []
    for size in sizes:
        cells = Cells(noisy, group(noisy.kept.index, size, job.batch_size), size)
        of_draws = cells.with_draws(drawn, job.batch_size) if drawn is not None else cells
        for preset, asked in every.items():
            mine = of_draws if layout_of(asked.choices) == "drawn" else cells
            finished += [(draft, mine.noisy) for draft in mine.compute(preset, asked)]
            suggestions.append(mine.suggest(preset, asked))
    index = noisy.kept.index
    shown = {
        (int(its.kept.index.example_id_N[n]), number)
        for cell, its in finished
        for n in (*cell.heaviest, *cell.lightest)
        if (number := int(its.kept.index.response_N[n])) >= 0  # the texts of draws stand in no data set
    }
    excerpts = read_excerpts(Path(job.dataset_path), list(shown))
    check, findings = judge_data(noisy, Grouping.whole(index))
    if evidence := describe_disagreement(job.ensemble):
        findings.append(raise_finding("reward_disagreement", evidence))
    if drawn is not None and (evidence := find_foreign(drawn.kept)):
        findings.append(raise_finding("foreign_data", evidence))
    return PreviewResult(
        cells=[cell.finish(its, excerpts) for cell, its in finished],
        suggestions=suggestions,
        check=check.model_copy(update={"ensemble": job.ensemble}),
        findings=findings,
        num_batches=len(index.num_prompts_B),
        num_responses=len(index.batch_N),
        seconds=time.monotonic() - start,
    )


def find_foreign(kept: Kept) -> str | None:
    """Evidence of `foreign_data` from the log-probabilities of data and draws."""
    index = kept.index
    found = compare_origins(kept.own_logprob_N, index.num_tokens_N, index.response_N, index.prompt_of_response)
    return describe_foreign(found.data, found.draws, found.gap, found.error)


def load_drawn(kept: KeptScorings, job: PreviewJob, request: PreviewRequest) -> Noisy:
    """Return data and draws of the reference together. Raises InvalidInput where the scoring has no draws."""
    if job.drawn is None:
        raise InvalidInput.at(
            "weights.partition_scope",
            "This scoring has no draws of the reference, which Z(x) from draws is the mean over: ask for a scoring whose "
            "weights.partition_scope is draws, or preview another preset.",
        )
    return add_noise(kept.load(job.model_copy(update=job.drawn.model_dump())), request)


@dataclass(frozen=True)
class PresetChoices:
    """What a preset with the request's overrides chooses: which responses enter, whether all weights have one scale, and over
    how many batch plans a run takes their means.
    """

    choices: WeightChoices
    responses: str
    by_data: bool
    plans: int


def read_choices(preset: Preset, request: PreviewRequest, reward_source: str) -> PresetChoices:
    """Return what a recipe with this preset and the request's overrides would choose."""
    data = {"preset": preset, "lambda": 1.0, **request.overrides}
    if reward_source != "model" and "cross_reward" not in request.overrides:
        data["cross_reward"] = "reuse"  # as in a recipe: the data say nothing of other prompts' responses
    settings = parse(WeightSettings, data, InvalidInput)
    if settings.cross_reward == "score" and reward_source != "model":
        raise InvalidInput.at(
            "weights.cross_reward",
            f"The rewards come from the {reward_source}, which says nothing of other prompts' responses: "
            "set cross_reward to reuse.",
        )
    if settings.cross_reward == "score" and request.per_prompt:
        raise InvalidInput.at(
            "per_prompt",
            "In deviations of its own prompt a reward can't be asked about another prompt's response: set cross_reward to reuse, "
            "or take the preset within_prompt or reward_weighted.",
        )
    choices = WeightChoices(
        settings.weight_form, settings.partition_scope, settings.logprob_norm, settings.cross_reward,
        settings.reward_norm, settings.mean_one == "batch",
    )  # fmt: skip
    if problem := find_draws_fault(settings, "var", reward_source, is_online=False):
        raise InvalidInput.at(*problem)
    return PresetChoices(choices, settings.responses, settings.mean_one == "dataset", settings.plans)


def check_served(
    noisy: Noisy, preset: Preset, choices: WeightChoices, lambdas: list[float], sizes: list[int], scored_size: int
) -> None:
    """Raises InvalidInput, with what to do, where the kept scores can't say what is asked."""
    if layout_of(choices) != "whole":
        return
    kept, largest = noisy.kept, max(sizes)
    if largest > scored_size:
        raise InvalidInput.at(
            "batch_sizes",
            f"Batches of {largest} prompts can't be previewed with the preset {preset}: it needs scores of every response with "
            f"every prompt of its batch, and {scored_size} prompts were scored together. Ask for at most {scored_size}, or make "
            "a scoring with the larger training.batch_size.",
        )
    if not kept.logprobs.cross:
        raise InvalidInput.at(
            "presets",
            f"The preset {preset} needs log-probabilities of other prompts' responses, and this scoring has those of own ones "
            "only: make a scoring of its own for this recipe, or preview within_prompt or reward_weighted.",
        )
    if choices.cross_reward == "score" and not (kept.rewards is not None and kept.rewards.cross):
        raise InvalidInput.at(
            "presets",
            f"The preset {preset} needs rewards of other prompts' responses, and this scoring has those of own ones only: "
            "make a scoring of its own for this recipe, or set cross_reward to reuse.",
        )
    _check_certificates(noisy, preset, choices, lambdas)


def _check_certificates(noisy: Noisy, preset: Preset, choices: WeightChoices, lambdas: list[float]) -> None:
    smallest = _smallest_served(noisy, choices)
    if smallest is None:
        return
    remedy = "Make a scoring of its own, which scores every pair."
    if not holds_for(choices):
        raise InvalidInput.at(
            "presets",
            "The log-probabilities were stopped early, which serves summed ones over the batch (preset paper), "
            f"not {preset}. {remedy}",
        )
    if noisy.breaks_certificates:
        raise InvalidInput.at(
            "reward_std",
            "The log-probabilities were stopped early for the rewards as they are, so noise on them can't be previewed, nor "
            f"another treatment. {remedy}",
        )
    raw = _smallest_raw(noisy) or 0.0
    if choices.cross_reward == "score" and find_broken_certificate(noisy.kept, raw):
        raise InvalidInput.at(
            "weights.cross_reward",
            "The log-probabilities were stopped early for rewards that are reused, which the reward model's own ones for other "
            f"prompts' responses exceed: set cross_reward to reuse. {remedy}",
        )
    if min(lambdas) < smallest * (1 - 1e-9):
        raise InvalidInput.at(
            "lambda",
            f"The log-probabilities were stopped early and serve λ from {smallest:.4g} on, not {min(lambdas):g}. {remedy}",
        )


def _smallest_served(noisy: Noisy, choices: WeightChoices) -> float | None:
    """Return the smallest λ that scores which were stopped early serve; None when they were not."""
    raw = _smallest_raw(noisy)
    if raw is None:
        return None
    return raw / ((noisy.reward_std or 1.0) if choices.reward_norm == "zscore" else 1.0)


def _smallest_raw(noisy: Noisy) -> float | None:
    """Return the same in units of the raw reward."""
    manifests = [part.manifest for part in (noisy.kept.logprobs, noisy.kept.rewards) if part is not None]
    return max((m.smallest_lambda for m in manifests if m.smallest_lambda is not None), default=None)


class Cells:
    """The cells of one batch size; stacks that presets share are made once."""

    def __init__(
        self, noisy: Noisy, grouping: Grouping, batch_size: int, findings: Sequence[FindingRaised] | None = None
    ) -> None:
        self.noisy, self.grouping, self.batch_size = noisy, grouping, batch_size
        self._parts: dict[tuple[str, str], list[BatchStack]] = {}
        repetition = find_repetition(grouping) if findings is None else None
        self._findings = findings or ([raise_finding("low_diversity", repetition)] if repetition else [])

    def with_draws(self, drawn: Noisy, scored_size: int) -> "Cells":
        """Return the same batches with the draws of the reference among their responses; what repeats is said of the data."""
        return Cells(drawn, group(drawn.kept.index, self.batch_size, scored_size), self.batch_size, self._findings)

    def compute(self, preset: Preset, asked: PresetChoices) -> Iterator[CellNumbers]:
        """Yield a draft for every λ; raises InvalidInput when no response enters the loss, or when r/λ is beyond all numbers."""
        if asked.responses == "chosen" and not bool((self.noisy.preference_N == 1).any()):
            raise InvalidInput.at(
                "weights.responses", "responses is chosen, but no response of the data set is marked as chosen: use both."
            )
        choices, layout = asked.choices, layout_of(asked.choices)
        try:
            parts = self._stack(layout, asked.responses)
            tallies = tally(self.noisy, parts, choices, self.noisy.request.lambdas, by_data=asked.by_data)
        except TooSmallLambda as error:
            raise InvalidInput.at("lambda", str(error)) from error
        for sums in tallies:
            sums.measure(self.grouping, layout, rescaled=choices.mean_one)
            if layout == "drawn":
                sums.measure_draws(self.noisy, (self.noisy.reward_std or 1.0) if choices.reward_norm == "zscore" else 1.0)
            yield draft(preset, self.batch_size, asked.plans, sums, self._findings)

    def suggest(self, preset: Preset, asked: PresetChoices) -> Suggestion:
        """Return the λ of the wanted effective sample size, looked for as a run with target_ess does."""
        target, noisy, choices = self.noisy.request.target_ess, self.noisy, asked.choices
        groups = self.grouping.spread(LAMBDA_BATCHES)
        parts = stack_groups(noisy, self.grouping, layout_of(choices), responses=asked.responses, groups=groups)
        lambda_, reason = None, ""
        smallest = _smallest_served(noisy, choices) if layout_of(choices) == "whole" else None
        try:
            lambda_ = find_stacked_lambda(
                [part.stack for part in parts], choices, target, reward_mean=noisy.reward_mean, reward_std=noisy.reward_std,
                smallest_lambda=max(smallest or 0.0, SMALLEST_LAMBDA),
            )  # fmt: skip
            refuse_extreme(lambda_, noisy.largest_reward(choices))
        except TargetUnreachable as error:
            lambda_, reason = None, str(error)
        return Suggestion(
            preset=preset, batch_size=self.batch_size, target_ess=target, lambda_=lambda_, reason=reason,
            fallback=fall_back(choices, noisy.reward_std),
        )  # fmt: skip

    def _stack(self, layout: str, responses: str) -> list[BatchStack]:
        key = (layout, responses)
        if key not in self._parts:
            self._parts[key] = list(stack_groups(self.noisy, self.grouping, layout, responses=responses))
        return self._parts[key]


def judge_data(noisy: Noisy, grouping: Grouping) -> tuple[RewardCheck, list[FindingRaised]]:
    """Return the reward check and the findings about the data as a whole, with the request's noise on labels and rewards."""
    index, reward_N = noisy.kept.index, noisy.own_reward_N
    check = check_rewards(reward_N, noisy.preference_N, index.num_tokens_N, grouping.prompt_N)
    chosen_P, rejected_P = pair_up(noisy.preference_N, grouping.prompt_N)
    pairs = list(zip(reward_N[chosen_P].tolist(), reward_N[rejected_P].tolist(), strict=True))
    num_equal = int((index.same_ids_N[chosen_P] == index.same_ids_N[rejected_P]).sum())
    found = [
        ("flat_rewards", find_flat_rewards(check.std, [chosen - rejected for chosen, rejected in pairs])),
        ("inverted_rewards", find_inverted_rewards(pairs)),
        ("truncated_pairs", find_truncated_pairs(num_equal, len(pairs))),
    ]
    return check, [raise_finding(name, evidence) for name, evidence in found if evidence]
