"""From scores to weights: the candidates of every batch, λ, the weights and what is wrong with them.

Legend: B prompts, M responses of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from app.domain.errors import RecipeInvalid
from app.domain.findings import LARGEST_EXPONENT
from app.domain.metrics import WEIGHT_EDGES
from app.domain.recipe import WeightSettings
from app.domain.remedies import BALANCED_SHARE, Temperatures
from app.system.files import writing
from worker.stages.examples import Encoded
from worker.stages.scoring.pairs import own_prompts
from worker.stages.scoring.plans import BatchPlan
from worker.stages.treatment import UNTREATED, Treatment
from worker.var.diagnostics import describe_weights, histogram
from worker.var.lambdas import LAMBDA_BATCHES, SMALLEST_LAMBDA, fall_back, refuse_extreme
from worker.var.loss import token_coefficients
from worker.var.stacks import log_mean_weight
from worker.var.weights import Candidates, TargetUnreachable, WeightChoices, compute_weights, find_lambda, weigh_batch

ROW_GROUP_ROWS = 65_536


@dataclass(frozen=True)
class WeightedBatch:
    """A batch of the plan with its weights; `coefficient_M` is each token's factor in the loss."""

    index: int
    examples: Sequence[Encoded]
    candidates: Candidates
    preference_M: Tensor
    weight_M: Tensor
    coefficient_M: Tensor

    @property
    def enters_M(self) -> Tensor:
        enters_M = self.candidates.enters_M
        return torch.ones_like(self.preference_M, dtype=torch.bool) if enters_M is None else enters_M


@dataclass(frozen=True)
class Weighing:
    """All weighted batches of a run, with the choices and reward statistics behind them."""

    batches: list[WeightedBatch]
    choices: WeightChoices
    reward_mean: float
    reward_std: float
    unreached: str = ""  # why no λ gives the wanted effective sample size, where another was taken
    partner_share: float | None = None  # of a weight's variance, what is chance of who met in a batch; None: not known
    treatment: Treatment = UNTREATED  # of the rewards, before they were weighed
    served: float | None = None  # the smallest λ that the scores serve, where pairs were dropped; None: every λ

    def describe(self, batch: WeightedBatch) -> dict[str, float]:
        return describe_weights(
            batch.candidates, batch.weight_M, self.choices, batch.preference_M,
            reward_mean=self.reward_mean, reward_std=self.reward_std,
        )  # fmt: skip

    def histogram(self, batch: WeightedBatch) -> list[int]:
        return histogram(batch.weight_M[batch.enters_M], WEIGHT_EDGES)

    def by_response(self) -> dict[tuple[int, int], float]:
        """Return the weights by example and number of the response."""
        return {
            (example.example_id, response.number): float(weight)
            for batch in self.batches
            for (example, response), weight in zip(
                ((e, r) for e in batch.examples for r in e.responses), batch.weight_M.tolist(), strict=True
            )
        }

    @cached_property
    def temperatures(self) -> Temperatures:
        """λ as it is, as it would balance the weights, and as the largest reward needs it."""
        candidates = [batch.candidates for batch in self.batches]
        largest = largest_reward(candidates, self.choices, self.reward_mean, self.reward_std)
        try:
            balanced: float | None = search_lambda(
                candidates, self.choices, BALANCED_SHARE, self.reward_mean, self.reward_std, largest, self.served
            )
        except TargetUnreachable:
            balanced = None
        return Temperatures(self.choices.lambda_, balanced, largest / LARGEST_EXPONENT or None)

    @cached_property
    def own_rewards(self) -> Tensor:
        return torch.cat([gather_own(b.candidates.own_M, b.candidates.reward_BM) for b in self.batches])


def gather_own(own_M: Tensor, value_BM: Tensor) -> Tensor:
    """value_M: each response's entry with its own prompt."""
    return value_BM.gather(0, own_M[None])[0]


def weigh(
    batches: Sequence[Sequence[Encoded]], logprobs: Sequence[Tensor], rewards: Sequence[Tensor], settings: WeightSettings,
    others: Sequence[BatchPlan] = (),
) -> Weighing:  # fmt: skip
    """Weights of every batch, averaged over `others` too: further plans of the same examples.

    Raises RecipeInvalid when target_ess can't be reached or no response enters the loss.
    """
    candidates = _make_all(BatchPlan(batches, logprobs, rewards), settings)
    if not any(c.enters_M is None or bool(c.enters_M.any()) for c in candidates):
        raise RecipeInvalid.at(
            "weights.responses", "responses is chosen, but no response of the data set is marked as chosen: use both."
        )
    own_rewards = torch.cat([gather_own(c.own_M, c.reward_BM) for c in candidates]).double()
    mean, std = float(own_rewards.mean()), float(own_rewards.std(correction=0))
    choices, unreached = choose_lambda(candidates, settings, mean, std)
    if settings.mean_one == "dataset":
        parts = (weigh_batch(scored, choices, reward_mean=mean, reward_std=std) for scored in candidates)
        choices = replace(choices, log_scale=log_mean_weight(parts))
    weights, partner_share = _weigh_all(candidates, choices, mean, std), None
    if others:
        further = [(plan, _weigh_all(_make_all(plan, settings), choices, mean, std)) for plan in others]
        enters = [torch.ones_like(c.own_M, dtype=torch.bool) if c.enters_M is None else c.enters_M for c in candidates]
        weights, partner_share = average(BatchPlan(batches, logprobs, rewards), weights, further, torch.cat(enters))
        if settings.mean_one == "dataset":
            weights = _rescale(candidates, weights)
    weighted = []
    for index, (batch, scored, weight_M) in enumerate(zip(batches, candidates, weights, strict=True)):
        coefficient_M = token_coefficients(weight_M, scored.num_tokens_M, settings.loss_norm, enters_M=scored.enters_M)
        preference_M = torch.tensor([r.preference or 0 for example in batch for r in example.responses])
        weighted.append(WeightedBatch(index, batch, scored, preference_M, weight_M, coefficient_M))
    return Weighing(weighted, choices, mean, std, unreached, partner_share)


def _make_all(plan: BatchPlan, settings: WeightSettings) -> list[Candidates]:
    return [_make_candidates(*parts, settings) for parts in zip(plan.batches, plan.logprobs, plan.rewards, strict=True)]


def _weigh_all(candidates: Sequence[Candidates], choices: WeightChoices, mean: float, std: float) -> list[Tensor]:
    return [compute_weights(scored, choices, reward_mean=mean, reward_std=std) for scored in candidates]


def average(
    own: BatchPlan, weights: Sequence[Tensor], further: Sequence[tuple[BatchPlan, Sequence[Tensor]]], enters_N: Tensor
) -> tuple[list[Tensor], float | None]:
    """Return each response's mean weight over the plans, in the first one's places, and how much of a weight's variance was
    chance: the mean variance of one response's weights between plans, as a share of that of all weights in all plans. Those
    outside of the loss, which are 0 in every plan, don't count. None: all weights are the same.
    """
    order = {e.example_id: place for place, e in enumerate(e for batch in own.batches for e in batch)}
    columns = []
    for plan, of_plan in [(own, weights), *further]:
        parts = [(order[e.example_id], weight_K) for batch, weight_M in zip(plan.batches, of_plan, strict=True)
                 for e, weight_K in zip(batch, weight_M.split([len(e.responses) for e in batch]), strict=True)]  # fmt: skip
        columns.append(torch.cat([weight_K for _, weight_K in sorted(parts, key=lambda part: part[0])]).double())
    weight_NR = torch.stack(columns, dim=1)
    total = float(weight_NR[enters_N].var(correction=0))
    between = float(weight_NR[enters_N].var(dim=1, correction=1).mean())
    mean_N = weight_NR.mean(dim=1).to(weights[0].dtype)
    return list(mean_N.split([len(weight_M) for weight_M in weights])), between / total if total > 0 else None


def _rescale(candidates: Sequence[Candidates], weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the weights with mean 1 over all responses in the loss."""
    entering = [weight_M if c.enters_M is None else weight_M[c.enters_M] for c, weight_M in zip(candidates, weights, strict=True)]
    mean = float(torch.cat(entering).double().mean())
    return [weight_M / mean if mean > 0 else weight_M for weight_M in weights]


def choose_lambda(
    candidates: Sequence[Candidates], settings: WeightSettings, mean: float, std: float
) -> tuple[WeightChoices, str]:
    """Return the recipe's choices with its λ, or with the λ that gives target_ess; and why it is another than that."""
    choices = WeightChoices(
        settings.weight_form, settings.partition_scope, settings.logprob_norm, settings.cross_reward,
        settings.reward_norm, settings.mean_one == "batch", settings.lambda_ or 1.0,
    )  # fmt: skip
    if settings.target_ess is None:
        return choices, ""
    try:
        largest = largest_reward(candidates, choices, mean, std) if settings.fallback == "reward_std" else 0.0
        found = search_lambda(candidates, choices, settings.target_ess, mean, std, largest)
    except TargetUnreachable as error:
        if settings.fallback == "none":
            raise RecipeInvalid.at("weights.target_ess", str(error)) from error
        return replace(choices, lambda_=fall_back(choices, std)), str(error)
    return replace(choices, lambda_=found), ""


def search_lambda(
    candidates: Sequence[Candidates], choices: WeightChoices, target: float, mean: float, std: float, largest: float,
    served: float | None = None,
) -> float:  # fmt: skip
    """Return the λ whose effective sample size is the target, over batches spread evenly; none below what is `served`.

    Raises TargetUnreachable, also for a λ that is too small for the `largest` |r|.
    """
    step, smallest = max(1, len(candidates) // LAMBDA_BATCHES), max(served or 0.0, SMALLEST_LAMBDA)
    found = find_lambda(candidates[::step], choices, target, reward_mean=mean, reward_std=std, smallest_lambda=smallest)
    refuse_extreme(found, largest)
    return found


def largest_reward(candidates: Sequence[Candidates], choices: WeightChoices, mean: float, std: float) -> float:
    """Return the largest |r| of any response with its own prompt, as the weights see it."""
    centre, scale = (mean, std or 1.0) if choices.reward_norm == "zscore" else (0.0, 1.0)
    return max(float((gather_own(one.own_M, one.reward_BM).double() - centre).abs().max()) for one in candidates) / scale


def _make_candidates(batch: Sequence[Encoded], logprob_BM: Tensor, reward_BM: Tensor, settings: WeightSettings) -> Candidates:
    responses, own_M = [response for example in batch for response in example.responses], own_prompts(batch)
    num_tokens_M = torch.tensor([len(response.ids) for response in responses])
    draw_M = torch.tensor([max(-1, -1 - r.number) for r in responses])
    label_M = torch.tensor([r.preference or 0 for r in responses])
    enters_M = choose_entering(settings.responses, label_M, draw_M)
    if settings.partition_scope != "draws":
        return Candidates(own_M, logprob_BM, num_tokens_M, reward_BM, enters_M)
    draw_reward_BK = gather_own(own_M, reward_BM)[draw_M >= 0].view(len(batch), -1)
    return Candidates(own_M, logprob_BM, num_tokens_M, reward_BM, enters_M, draw_reward_BK, draw_M)


def choose_entering(responses: str, label: Tensor, draw: Tensor) -> Tensor | None:
    """Return which responses enter the loss, by their labels (1: chosen) and which draw each is (−1: none); None: all."""
    if responses == "chosen":
        return label == 1
    if responses == "draws":
        return draw >= 0
    return draw < 0 if responses == "both" and bool((draw >= 0).any()) else None


def save_weights(path: Path, weighing: Weighing) -> None:
    """Write `weights.parquet`: one row per response of the batch plan, batches in order."""
    schema = pa.schema(
        [
            ("batch", pa.int32()), ("example_id", pa.int64()), ("response", pa.int16()), ("preference", pa.int8()),
            ("num_tokens", pa.int32()), ("logprob_ref", pa.float32()), ("reward", pa.float32()), ("weight", pa.float32()),
        ]
    )  # fmt: skip
    columns: dict[str, list[float | int | None]] = {name: [] for name in schema.names}
    for batch in weighing.batches:
        responses = [(example.example_id, r) for example in batch.examples for r in example.responses]
        columns["batch"] += [batch.index] * len(responses)
        columns["example_id"] += [example_id for example_id, _ in responses]
        columns["response"] += [r.number for _, r in responses]
        columns["preference"] += [r.preference for _, r in responses]
        columns["num_tokens"] += [len(r.ids) for _, r in responses]
        columns["logprob_ref"] += gather_own(batch.candidates.own_M, batch.candidates.logprob_BM).tolist()
        columns["reward"] += gather_own(batch.candidates.own_M, batch.candidates.reward_BM).tolist()
        columns["weight"] += batch.weight_M.tolist()
    with writing(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary, row_group_size=ROW_GROUP_ROWS)
