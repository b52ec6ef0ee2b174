"""Online VAR: every few steps the policy answers the prompts of the next batches itself (worker.stages.training.rounds), and is
trained on those answers; the weights are worker.var.online's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from app.domain.recipe import Recipe
from worker.models.adapter import LanguageModel
from worker.stages.attempt import AttemptContext
from worker.stages.noise import perturb_rewards
from worker.stages.prepare import Ground
from worker.stages.training.objectives import WeightedObjective
from worker.stages.training.rounds import Drawn, OnRounds, Rounds, distinct_share, put_answers
from worker.stages.training.weights import WeightedBatch, gather_own
from worker.var.ensemble import EnsembleScale
from worker.var.loss import token_coefficients
from worker.var.online import online_candidates, online_choices
from worker.var.weights import compute_weights, effective_sample_size


@dataclass
class OnlineObjective(OnRounds, WeightedObjective):
    """VAR on fresh answers. `weighing` and `batches` are those of the data, which give prompts, λ and the rewards' scale."""

    attempt: AttemptContext
    ground: Ground
    num_steps: int
    noise_std: float = 0.0  # on every reward
    scale: EnsembleScale | None = None  # of several reward models
    rounds: Rounds = field(init=False)

    def __post_init__(self) -> None:
        self.weighing = replace(self.weighing, choices=online_choices(self.weighing.choices))
        self.rounds = Rounds(
            self.attempt, self.ground, self.num_steps, lambda step: self.data_at(step).examples,
            usual=f" (data: {self.weighing.reward_mean:.4g})", scale=self.scale,
        )  # fmt: skip

    @property
    def recipe(self) -> Recipe:
        return self.attempt.recipe

    def batch_at(self, step: int, model: LanguageModel) -> WeightedBatch:
        first, drawn = self.rounds.answers(step, model)
        return self.weigh_fresh(self.data_at(step), drawn, first)

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
        reward_M = self.weighing.treatment.own(reward_M, num_tokens_M, own_M)
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
