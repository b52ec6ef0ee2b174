"""RAFT, RLOO and GRPO: the policy answers the prompts of the next batches (worker.stages.training.rounds), and each answer counts
by how it compares with the others to the same prompt; the mathematics is worker.var.groups's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from app.domain.recipe import Method
from worker.models.adapter import LanguageModel
from worker.stages.attempt import AttemptContext
from worker.stages.prepare import Ground
from worker.stages.scoring.pairs import own_prompts
from worker.stages.training.gradients import GroupBatch, Pass, PlainBatch, accumulate_groups, accumulate_weighted
from worker.stages.training.objectives import Objective
from worker.stages.training.rounds import Drawn, OnRounds, Rounds, distinct_share, put_answers
from worker.var.groups import Estimator, group_advantages
from worker.var.loss import token_coefficients

ESTIMATORS: dict[Method, Estimator] = {Method.RAFT: "raft", Method.RLOO: "rloo", Method.GRPO: "grpo"}


@dataclass
class GroupObjective(OnRounds, Objective[LanguageModel, PlainBatch | GroupBatch]):
    """`batches` are those of the data, which give the prompts. A mean advantage near 0 has no size that a divergence could be
    told by.
    """

    attempt: AttemptContext
    ground: Ground
    num_steps: int
    rounds: Rounds = field(init=False)
    told: dict[str, float] = field(init=False, default_factory=dict)
    is_steady = False

    def __post_init__(self) -> None:
        per_token = self.attempt.recipe.method is Method.GRPO
        self.rounds = Rounds(
            self.attempt, self.ground, self.num_steps, lambda step: self.data_at(step).examples, per_token=per_token
        )

    def batch_at(self, step: int, model: LanguageModel) -> PlainBatch | GroupBatch:
        _, drawn = self.rounds.answers(step, model)
        return self.compare(self.data_at(step), drawn)

    def compare(self, batch: PlainBatch | GroupBatch, drawn: Sequence[Drawn]) -> PlainBatch | GroupBatch:
        """Return the batch with its prompts' fresh answers, and what each of them counts."""
        recipe = self.attempt.recipe
        examples = [put_answers(example, answers) for example, answers in zip(batch.examples, drawn, strict=True)]
        own_M = own_prompts(examples)
        reward_M, sampler_M, reference_M = (
            torch.tensor([value for answers in drawn for value in getattr(answers, name)], dtype=torch.float64)
            for name in ("rewards", "sampler", "reference")
        )
        num_tokens_M = torch.tensor([len(ids) for answers in drawn for ids in answers.ids])
        counted_M = reward_M
        if recipe.method is Method.RLOO:  # what is away from the reference costs reward
            counted_M = reward_M - recipe.group.kl_weight * (sampler_M - reference_M)
        advantage_M = group_advantages(counted_M, own_M, ESTIMATORS[recipe.method]).float()
        spread = [float(reward_K.max() - reward_K.min()) for reward_K in reward_M.split(own_M.bincount().tolist())]
        self.told = {
            "online/reward_mean": float(reward_M.mean()),
            "online/distinct_share": sum(map(distinct_share, examples)) / len(examples),
            "online/kl": float((sampler_M - reference_M).mean()),
            "online/length": float(num_tokens_M.double().mean()),
            "group/flat_share": sum(width == 0 for width in spread) / len(spread),
            "reward/mean": float(reward_M.mean()),
            "reward/std": float(reward_M.std(correction=0)),
        }
        if recipe.method is Method.RAFT:
            enters_M = advantage_M > 0
            coefficient_M = token_coefficients(advantage_M, num_tokens_M, "token_mean", enters_M=enters_M)
            return PlainBatch(batch.index, examples, enters_M, coefficient_M)
        per_token = recipe.method is Method.GRPO
        sampler, reference = (
            [values for answers in drawn for values in getattr(answers, f"{name}_tokens")]
            if per_token
            else [[value] for answers in drawn for value in getattr(answers, name)]
            for name in ("sampler", "reference")
        )
        return GroupBatch(batch.index, examples, advantage_M, sampler, reference, per_token)

    def accumulate(self, model: LanguageModel, batch: PlainBatch | GroupBatch) -> Pass:
        settings = self.attempt.recipe.group
        if isinstance(batch, PlainBatch):
            return accumulate_weighted(model, batch, self.training.micro_batch_size)
        return accumulate_groups(model, batch, self.training.micro_batch_size, settings.clip, settings.kl_weight)

    def describe(self, batch: PlainBatch | GroupBatch) -> dict[str, float]:
        return self.told
