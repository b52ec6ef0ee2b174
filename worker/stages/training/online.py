"""Online VAR: every few steps the policy answers the prompts of the next batches itself, and is trained on those answers.

A round: K answers per prompt from the policy as it is, their rewards, and their log-probabilities under the policy and under the
frozen reference; the weights are worker.var.online's. The reward model and the reference are loaded for the round, one after
the other. A checkpoint within a round holds its answers, so that a resumed run trains on the very same ones.
"""

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from app.domain.errors import ModelInvalid
from app.domain.recipe import Recipe
from worker.models.adapter import LanguageModel
from worker.models.compiled import uncompiled
from worker.models.generate import Sampling, generate
from worker.models.load import context_window
from worker.stages.attempt import AttemptContext
from worker.stages.evaluation.answers import end_ids
from worker.stages.examples import Encoded, EncodedResponse, decode_answers
from worker.stages.noise import perturb_rewards
from worker.stages.prepare import Ground
from worker.stages.scoring.pairs import sequence_logprobs
from worker.stages.scoring.sources import ReferenceSource, RewardSource
from worker.stages.seeds import derive_seed
from worker.stages.training.distribution import find_whole
from worker.stages.training.objectives import WeightedObjective
from worker.stages.training.weights import WeightedBatch, gather_own
from worker.var.loss import token_coefficients
from worker.var.online import online_candidates, online_choices
from worker.var.weights import compute_weights, effective_sample_size


@dataclass(frozen=True)
class Drawn:
    """The fresh answers to one prompt: ids, texts, log π_s and log π_ref summed over tokens, rewards; one entry each."""

    ids: list[list[int]]
    texts: list[str]
    sampler: list[float]
    reference: list[float]
    rewards: list[float]


@dataclass(frozen=True)
class Round:
    """The answers for the steps from `first` on, prompt by prompt as the steps' batches have them."""

    first: int
    drawn: list[Drawn]


@dataclass
class OnlineObjective(WeightedObjective):
    """VAR on fresh answers. `weighing` and `batches` are those of the data, which give prompts, λ and the rewards' scale."""

    attempt: AttemptContext
    ground: Ground
    num_steps: int
    noise_std: float = 0.0  # on every reward
    round: Round | None = None

    def __post_init__(self) -> None:
        self.weighing = replace(self.weighing, choices=online_choices(self.weighing.choices))

    @property
    def recipe(self) -> Recipe:
        return self.attempt.recipe

    def batch_at(self, step: int, model: LanguageModel) -> WeightedBatch:
        every = self.recipe.online.every or 1
        first = step - step % every
        if self.round is None or self.round.first != first:
            self.round = self.start_round(model, first, min(first + every, self.num_steps))
        offset = sum(len(super(OnlineObjective, self).batch_at(k, model).examples) for k in range(first, step))
        batch = super().batch_at(step, model)
        return self.weigh_fresh(batch, self.round.drawn[offset : offset + len(batch.examples)], first)

    def start_round(self, model: LanguageModel, first: int, end: int) -> Round:
        """Let the policy answer all prompts of the steps `first` to `end`, and tell what came of it."""
        batches = [super(OnlineObjective, self).batch_at(step, model) for step in range(first, end)]
        examples = [example for batch in batches for example in batch.examples]
        made = Round(first, self.draw_together(model, examples, first))
        rewards = torch.tensor([reward for drawn in made.drawn for reward in drawn.rewards], dtype=torch.float64)
        self.attempt.log(
            f"Step {first + 1}: the policy answered {len(examples)} prompts {self.recipe.online.num_responses} times each, "
            f"for steps {first + 1} to {end}; mean reward {float(rewards.mean()):.4g} (data: {self.weighing.reward_mean:.4g})."
        )
        return made

    def draw_together(self, model: LanguageModel, examples: Sequence[Encoded], first: int) -> list[Drawn]:
        """Return the lead draws with the whole policy, and tells the other processes what it has drawn."""
        whole = find_whole(self.attempt, model, self.ground.policy_folder)
        with uncompiled(model):
            drawn = self.attempt.ranks.lead_alone(lambda: draw(self.attempt, whole, self.ground, examples, first))
        if self.attempt.ranks.is_alone and drawn is not None:
            return drawn
        return [Drawn(**answers) for answers in self.attempt.ranks.tell(drawn and [asdict(answers) for answers in drawn])]

    def weigh_fresh(self, batch: WeightedBatch, drawn: Sequence[Drawn], first: int) -> WeightedBatch:
        """Return the batch with its prompts' fresh answers in the place of the data's."""
        examples = [put_answers(example, answers) for example, answers in zip(batch.examples, drawn, strict=True)]
        own_M = torch.tensor([i for i, answers in enumerate(drawn) for _ in answers.ids])
        num_tokens_M = torch.tensor([len(ids) for answers in drawn for ids in answers.ids])
        reference_M, sampler_M, reward_M = (
            torch.tensor([value for answers in drawn for value in getattr(answers, name)], dtype=torch.float64)
            for name in ("reference", "sampler", "rewards")
        )
        example_M = torch.tensor([example.example_id for example in examples for _ in example.responses])
        number_M = (
            torch.tensor([k for answers in drawn for k in range(len(answers.ids))]) + first * self.recipe.online.num_responses
        )
        reward_M = perturb_rewards(reward_M, example_M, example_M, number_M, self.noise_std, self.recipe.noise.seed)
        candidates = online_candidates(own_M, reference_M, sampler_M, num_tokens_M, reward_M)
        mean, std = self.weighing.reward_mean, self.weighing.reward_std
        weight_M = compute_weights(candidates, self.weighing.choices, reward_mean=mean, reward_std=std).float()
        coefficient_M = token_coefficients(weight_M, num_tokens_M, self.recipe.weights.loss_norm)
        return WeightedBatch(batch.index, examples, candidates, torch.zeros_like(own_M), weight_M, coefficient_M)

    def describe(self, batch: WeightedBatch) -> dict[str, float]:
        candidates = batch.candidates
        shares = [
            effective_sample_size(weight_K) / len(weight_K)
            for weight_K in batch.weight_M.split(candidates.own_M.bincount().tolist())
        ]
        return super().describe(batch) | {
            "online/reward_mean": float(gather_own(candidates.own_M, candidates.reward_BM).mean()),
            "online/ess_share": sum(shares) / len(shares),
            "online/distinct_share": sum(map(distinct_share, batch.examples)) / len(batch.examples),
            "online/kl": -float(gather_own(candidates.own_M, candidates.logprob_BM).mean()),
            "online/length": float(candidates.num_tokens_M.double().mean()),
        }

    def save(self) -> dict[str, Any]:
        return {} if self.round is None else {"round": asdict(self.round)}

    def restore(self, state: dict[str, Any]) -> None:
        kept = state.get("round")
        self.round = None if kept is None else Round(kept["first"], [Drawn(**drawn) for drawn in kept["drawn"]])


def distinct_share(example: Encoded) -> float:
    """Return how many of an example's responses differ: 1 all of them, 0 they are all the same."""
    num = len(example.responses)
    return (len({response.ids.tobytes() for response in example.responses}) - 1) / (num - 1)


def put_answers(example: Encoded, drawn: Drawn) -> Encoded:
    """Return the example with fresh answers in the place of its responses."""
    answers = enumerate(zip(drawn.ids, drawn.texts, strict=True))
    return replace(example, responses=tuple(EncodedResponse(array("i", ids), text, None, None, k) for k, (ids, text) in answers))


def draw(attempt: AttemptContext, model: LanguageModel, ground: Ground, examples: Sequence[Encoded], first: int) -> list[Drawn]:
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
    rewards = RewardSource(attempt, ground).score_answers(asked, texts)
    if not torch.tensor(rewards).isfinite().all():
        raise ModelInvalid("The reward model gives a fresh answer a reward that is not finite. Try reward.dtype float32.")
    reference = ReferenceSource(attempt, ground).score_answers(model, pairs).tolist()
    groups = [slice(k, k + num) for k in range(0, len(asked), num)]
    return [Drawn(ids[g], texts[g], sampler[g], reference[g], rewards[g]) for g in groups]
