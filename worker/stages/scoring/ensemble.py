"""The recipe's reward models: one, or several as one (worker.var.ensemble). Never more than one of them is loaded.

Each model's rewards are kept under their own key, as those of a run with this model alone would be, so either finds the other's
and a killed pass goes on where it was. What they come to together is an artifact of its own, made of kept ones:
    scorings/ensemble-<key>/scores.safetensors    `scores` mean − k · SD, `deviation` SD; both laid out as rewards are
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from app.domain.errors import InvalidInput
from app.domain.scoring import EnsembleCheck, ScorePart
from worker.stages.attempt import AttemptContext
from worker.stages.examples import Encoded
from worker.stages.prepare import Ground
from worker.stages.scoring.artifacts import ScoreManifest, keep, make_key, read_manifest
from worker.stages.scoring.cache import FILE, FlatScores, Layout, read_scores
from worker.stages.scoring.cached import CachedScores, describe, gather_own
from worker.stages.scoring.index import Index
from worker.stages.scoring.reward_check import measure_accuracy, pair_up
from worker.stages.scoring.sources import RewardSource
from worker.var.ensemble import EnsembleScale, correlate, measure_scale

FIELDS = ("reward.model", "reward.second", "reward.third")


class RewardModels:
    """The reward models of a recipe. `scale` is known once the data's own pairs are scored; one model alone needs none."""

    def __init__(self, attempt: AttemptContext, ground: Ground, scale: EnsembleScale | None = None) -> None:
        """Raises InvalidInput where two of them have the same weights."""
        self.members = [RewardSource(attempt, ground), *(RewardSource(attempt, ground, one) for one in attempt.spec.further)]
        self.scale = scale
        self._caution = attempt.recipe.reward.caution
        self._folder = Path(attempt.spec.scorings_dir)
        if self.is_ensemble:
            self._refuse_twins()

    @property
    def is_ensemble(self) -> bool:
        return len(self.members) > 1

    def name(self, number: int) -> str:
        """Return what the rewards of a model are called in the log."""
        return f"rewards of model {number + 1} of {len(self.members)}" if self.is_ensemble else "rewards"

    def measure(self, layout: Layout, parts: Sequence[CachedScores]) -> None:
        """Learn the models' scales from the rewards of all own pairs, unless they are known."""
        if self.scale is None:
            self.scale = measure_scale([gather_own(layout, part.matrices) for part in parts], self._caution)

    def combine(self, layout: Layout, parts: Sequence[CachedScores], extent: str) -> CachedScores:
        """Return what the models say together of the pairs that are wanted, kept among the scores."""
        if not self.is_ensemble:
            return parts[0]
        self.measure(layout, parts)
        told = [part.told for part in parts if part.told is not None]
        reward_N, deviation_N = self.join([layout.flatten(0, part.matrices, extent) for part in parts])
        kept = self._keep(layout, extent, told, reward_N, deviation_N)
        reason = next((part.miss_reason for part in told if not part.hit), "")
        seconds = sum(part.seconds for part in told)
        matrices = layout.unflatten(0, len(layout.own), reward_N, extent)
        return CachedScores(matrices, describe(kept, reason).model_copy(update={"seconds": seconds}))

    def join(self, rewards: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the rewards of all models as one, and their deviation. Of one model they are its own, without any."""
        if not self.is_ensemble:
            return rewards[0], torch.zeros_like(rewards[0])
        assert self.scale is not None  # the data are scored before anything else is
        return self.scale.combine(rewards)

    def score_answers(self, prompts: Sequence[Encoded], texts: Sequence[str]) -> list[float]:
        """Rewards of a text for each prompt; each model is loaded for this and let go again."""
        rewards = [torch.tensor(one.score_answers(prompts, texts), dtype=torch.float64) for one in self.members]
        return [float(value) for value in self.join(rewards)[0]]

    def _keep(self, layout: Layout, extent: str, told: Sequence[ScorePart], reward_N: Tensor, deviation_N: Tensor) -> FlatScores:
        assert self.scale is not None
        keys = [part.key for part in told]
        facts = {"models": " ".join(keys), "caution": str(self._caution)}
        key = make_key("ensemble", {**facts, "extent": extent, "scale": [self.scale.means, self.scale.deviations]})
        num_scored = min(part.num_scored for part in told)
        manifest = ScoreManifest(
            key, "ensemble", facts, extent, len(layout.own), layout.count_pairs(extent), min(num_scored, len(reward_N))
        )
        if read_manifest(self._folder, key, FILE) is None:
            keep(self._folder, manifest, FILE, {"scores": reward_N, "deviation": deviation_N})
        return read_scores(self._folder, key)

    def _refuse_twins(self) -> None:
        known: list[str] = []
        for field, member in zip(FIELDS, self.members, strict=False):
            weights = member.model_facts["weights"]
            if weights in known:
                twin = FIELDS[known.index(weights)]
                raise InvalidInput.at(
                    field, f"{field} has the weights of {twin}, so the two agree: name a reward model that was trained apart."
                )
            known.append(weights)


def check_ensemble(index: Index, reward_EN: Sequence[Tensor], caution: float) -> EnsembleCheck:
    """Return how far the models agree; `reward_EN` are their rewards of own pairs, in the index's order."""
    chosen_P, rejected_P = pair_up(index.preference_N, index.prompt_of_response)
    right_EP = torch.stack([(reward_N[chosen_P] - reward_N[rejected_P]).sign() for reward_N in reward_EN])
    alike_P = (right_EP == right_EP[0]).all(dim=0)
    return EnsembleCheck(
        caution=caution,
        correlation=correlate(reward_EN),
        same_order=float(alike_P.double().mean()) if len(alike_P) else None,
        accuracies=[measure_accuracy(right_P) for right_P in right_EP],
    )
