"""Rounds of fresh answers: every few steps the policy answers the prompts of the next batches itself.

A round: K answers per prompt from the policy as it is, their rewards, and their log-probabilities under the policy and under the
frozen reference. The reward model and the reference are loaded for the round, one after the other. A checkpoint within a round
holds its answers, so that a resumed run trains on the very same ones.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from app.domain.errors import ModelInvalid
from worker.models.adapter import LanguageModel
from worker.models.compiled import uncompiled
from worker.models.generate import Sampling, generate
from worker.models.load import context_window
from worker.stages.attempt import AttemptContext
from worker.stages.evaluation.answers import end_ids
from worker.stages.evaluation.likelihoods import measure_tokens
from worker.stages.examples import Encoded, EncodedResponse, decode_answers
from worker.stages.prepare import Ground
from worker.stages.scoring.ensemble import RewardModels
from worker.stages.scoring.pairs import sequence_logprobs
from worker.stages.scoring.sources import ReferenceSource
from worker.stages.seeds import derive_seed
from worker.stages.training.distribution import find_whole
from worker.var.ensemble import EnsembleScale


@dataclass(frozen=True)
class Drawn:
    """The fresh answers to one prompt: ids, texts, log π_s and log π_ref summed over tokens, rewards; one entry each.

    The last two hold the same log-probabilities token by token, where these are read.
    """

    ids: list[list[int]]
    texts: list[str]
    sampler: list[float]
    reference: list[float]
    rewards: list[float]
    sampler_tokens: list[list[float]] = field(default_factory=list)
    reference_tokens: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Round:
    """The answers for the steps from `first` on, prompt by prompt as the steps' batches have them."""

    first: int
    drawn: list[Drawn]


@dataclass
class Rounds:
    """The rounds of a run. `examples_at` gives the prompts of a step; `usual`: what the log compares rewards with.

    `per_token`: log-probabilities of single tokens are read. `scale`: of several reward models.
    """

    attempt: AttemptContext
    ground: Ground
    num_steps: int
    examples_at: Callable[[int], Sequence[Encoded]]
    usual: str = ""
    per_token: bool = False
    scale: EnsembleScale | None = None
    current: Round | None = None
    num_tokens: int = 0  # of the answers that were drawn since somebody asked

    def answers(self, step: int, model: LanguageModel) -> tuple[int, list[Drawn]]:
        """Return the first step of the round, and the answers to the prompts of the step that follows `step` finished ones."""
        every = self.attempt.recipe.online.every or 1
        first = step - step % every
        if self.current is None or self.current.first != first:
            self.current = self._start(model, first, min(first + every, self.num_steps))
        offset = sum(len(self.examples_at(k)) for k in range(first, step))
        return first, self.current.drawn[offset : offset + len(self.examples_at(step))]

    def _start(self, model: LanguageModel, first: int, end: int) -> Round:
        """Let the policy answer all prompts of the steps `first` to `end`, and tell what came of it."""
        examples = [example for step in range(first, end) for example in self.examples_at(step)]
        made = Round(first, self._draw_together(model, examples, first))
        rewards = torch.tensor([reward for drawn in made.drawn for reward in drawn.rewards], dtype=torch.float64)
        self.num_tokens += sum(len(ids) for drawn in made.drawn for ids in drawn.ids)
        self.attempt.log(
            f"Step {first + 1}: the policy answered {len(examples)} prompts {self.attempt.recipe.online.num_responses} times "
            f"each, for steps {first + 1} to {end}; mean reward {float(rewards.mean()):.4g}{self.usual}."
        )
        return made

    def _draw_together(self, model: LanguageModel, examples: Sequence[Encoded], first: int) -> list[Drawn]:
        """Return the lead draws with the whole policy, and tells the other processes what it has drawn."""
        attempt = self.attempt
        whole = find_whole(attempt, model, self.ground.policy_folder)
        with uncompiled(model):
            drawn = attempt.ranks.lead_alone(lambda: self._draw(whole, examples, first))
        if attempt.ranks.is_alone and drawn is not None:
            return drawn
        return [Drawn(**answers) for answers in attempt.ranks.tell(drawn and [asdict(answers) for answers in drawn])]

    def _draw(self, model: LanguageModel, examples: Sequence[Encoded], first: int) -> list[Drawn]:
        models = RewardModels(self.attempt, self.ground, self.scale)
        return draw(self.attempt, model, self.ground, examples, first, models, per_token=self.per_token)

    def take_drawn(self) -> int:
        """Return how many tokens were drawn since this was asked last."""
        num, self.num_tokens = self.num_tokens, 0
        return num

    def save(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, as JSON-ready values."""
        return {} if self.current is None else {"round": asdict(self.current)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `save` gave."""
        kept = state.get("round")
        self.current = None if kept is None else Round(kept["first"], [Drawn(**drawn) for drawn in kept["drawn"]])


class OnRounds:
    """What an objective on rounds of fresh answers tells of them and keeps."""

    rounds: Rounds

    def take_drawn(self) -> int:
        return self.rounds.take_drawn()

    def save(self) -> dict[str, Any]:
        return self.rounds.save()

    def restore(self, state: dict[str, Any]) -> None:
        self.rounds.restore(state)


def distinct_share(example: Encoded) -> float:
    """Return how many of an example's responses differ: 1 all of them, 0 they are all the same."""
    num = len(example.responses)
    return (len({response.ids.tobytes() for response in example.responses}) - 1) / (num - 1)


def put_answers(example: Encoded, drawn: Drawn) -> Encoded:
    """Return the example with fresh answers in the place of its responses."""
    answers = enumerate(zip(drawn.ids, drawn.texts, strict=True))
    return replace(example, responses=tuple(EncodedResponse(array("i", ids), text, None, None, k) for k, (ids, text) in answers))


def draw(
    attempt: AttemptContext, model: LanguageModel, ground: Ground, examples: Sequence[Encoded], first: int,
    models: RewardModels, *, per_token: bool,
) -> list[Drawn]:  # fmt: skip
    """Fresh answers to the prompts of `examples`, scored; seeded by the run's seed and the round's first step."""
    settings, check = attempt.recipe.online, attempt.stop.check
    window, num = context_window(model.config), settings.num_responses
    limit = (
        settings.max_new_tokens if window is None else max(1, min(settings.max_new_tokens, window - ground.lengths.max_prompt))
    )
    seed = derive_seed(attempt.recipe.training.seed, "online", first)
    ends, is_ended = end_ids(model, ground.prompt_format), ground.prompt_format.is_ended
    asked = [example for example in examples for _ in range(num)]
    ids = generate(model, [e.prompt_ids for e in asked], Sampling(limit, settings.temperature, 1.0, seed, ends, is_ended), check)
    texts = decode_answers(ground.prompt_format, asked, ids)
    pairs = [(example.prompt_ids, answer_ids) for example, answer_ids in zip(asked, ids, strict=True)]
    sampler = sequence_logprobs(model, pairs, settings.temperature).tolist()
    tokens = [measure_tokens(model, pairs, check)] if per_token else []
    rewards = models.score_answers(asked, texts)
    if not torch.tensor(rewards).isfinite().all():
        raise ModelInvalid("The reward model gives a fresh answer a reward that is not finite. Try reward.dtype float32.")
    with ReferenceSource(attempt, ground).beside(model) as as_reference, as_reference() as judged:
        reference = sequence_logprobs(judged, pairs).tolist()
        tokens += [measure_tokens(judged, pairs, check)] if per_token else []
    groups = [slice(k, k + num) for k in range(0, len(asked), num)]
    return [Drawn(ids[g], texts[g], sampler[g], reference[g], rewards[g], *(column[g] for column in tokens)) for g in groups]
