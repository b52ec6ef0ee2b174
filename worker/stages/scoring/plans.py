"""Other batch plans than the training's own, for weights that are averaged over several: who meets whom is then less of a chance.

A plan of number r ≥ 1 is a function of the training's seed and r. Where the weights read own pairs alone, its scores are those of
the run's own plan in other places; where they read other prompts' responses, each plan is scored in full.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from app.domain.recipe import Method, Recipe
from app.domain.run import RunKind
from worker.stages.batches import plan_batches
from worker.stages.examples import Encoded
from worker.stages.prepare import Ground
from worker.stages.scoring.pairs import own_prompts
from worker.stages.seeds import derive_seed


@dataclass(frozen=True)
class BatchPlan:
    """Batches with the scores [B, M] that the weights read; NaN where they read none."""

    batches: Sequence[Sequence[Encoded]]
    logprobs: Sequence[Tensor]
    rewards: Sequence[Tensor]


def count_others(recipe: Recipe, kind: RunKind) -> int:
    """Return how many plans the weights are averaged over beside the training's own."""
    weighs = kind is RunKind.TRAINING and recipe.method is Method.VAR and recipe.online.every is None
    return recipe.weights.plans - 1 if weighs else 0


def lay_other(ground: Ground, recipe: Recipe, number: int) -> Ground:
    """Return the same ground with the batches of another plan."""
    examples, seed = ground.prepared.train, derive_seed(recipe.training.seed, "partners", number)
    plan = plan_batches(len(examples), recipe.training.batch_size, seed)
    return replace(ground, batches=[[examples[i] for i in batch] for batch in plan])


def rearrange(known: BatchPlan, batches: Sequence[Sequence[Encoded]]) -> BatchPlan:
    """Return the known examples, with the scores of own pairs, as other batches have them; NaN for all other pairs."""
    mine = {example.example_id: example for batch in known.batches for example in batch}
    moved = [[mine[example.example_id] for example in batch] for batch in batches]
    return BatchPlan(moved, _rearrange(known, known.logprobs, moved), _rearrange(known, known.rewards, moved))


def _rearrange(known: BatchPlan, matrices: Sequence[Tensor], batches: Sequence[Sequence[Encoded]]) -> list[Tensor]:
    own: dict[int, Tensor] = {}
    for batch, matrix_BM in zip(known.batches, matrices, strict=True):
        parts = gather_own(batch, matrix_BM).split([len(e.responses) for e in batch])
        own |= dict(zip([e.example_id for e in batch], parts, strict=True))
    return [spread_own(batch, torch.cat([own[example.example_id] for example in batch])) for batch in batches]


def gather_own(batch: Sequence[Encoded], matrix_BM: Tensor) -> Tensor:
    """Of a matrix [B, M], the entries of own pairs: [M]."""
    return matrix_BM.gather(0, own_prompts(batch)[None])[0]


def spread_own(batch: Sequence[Encoded], value_M: Tensor) -> Tensor:
    """Return numbers of own pairs as a matrix [B, M]; NaN for all other pairs."""
    own_BM = torch.full((len(batch), len(value_M)), torch.nan)
    own_BM[own_prompts(batch), torch.arange(len(value_M))] = value_M
    return own_BM
