"""Examples with the draws of the reference behind their own responses, with their scores.

Own pairs only: with Z(x) from draws nothing is asked of other prompts' responses.
Legend: B prompts, M responses of a batch, N of all.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from app.domain.scoring import DrawsFacts
from worker.stages.attempt import AttemptContext
from worker.stages.drawing.draws import Draws, make_draws
from worker.stages.drawing.kept import Artifact, keep_whole
from worker.stages.examples import Encoded
from worker.stages.prepare import Ground
from worker.stages.scoring.cache import FILE
from worker.stages.scoring.index import keep_index, read_index
from worker.stages.scoring.origins import compare_origins
from worker.stages.scoring.plans import BatchPlan, gather_own, spread_own
from worker.stages.scoring.sources import ReferenceSource
from worker.var.ensemble import EnsembleScale


def add_draws(
    attempt: AttemptContext, ground: Ground, plan: BatchPlan, reference: ReferenceSource, scale: EnsembleScale | None = None
) -> tuple[BatchPlan, DrawsFacts]:
    """Return the plan with the draws of the reference among its responses, found or made, and what is told of them.

    `scale`: of several reward models, by the data's own pairs.
    """
    draws = make_draws(attempt, ground, reference, scale)
    mixed = mix(plan, draws)
    return mixed, describe_draws(attempt, mixed, draws)


def mix(plan: BatchPlan, draws: Draws) -> BatchPlan:
    """Return the plan with each prompt's draws among its responses, with their log π_ref and rewards; NaN for other pairs."""
    batches = [[draws.add_to(example) for example in batch] for batch in plan.batches]

    def mix_all(matrices: Sequence[Tensor], value_N: Tensor) -> list[Tensor]:
        parts = zip(plan.batches, batches, matrices, strict=True)
        return [spread_own(after, _append(before, matrix_BM, value_N, draws)) for before, after, matrix_BM in parts]

    return BatchPlan(batches, mix_all(plan.logprobs, draws.logprob_N), mix_all(plan.rewards, draws.reward_N))


def _append(batch: Sequence[Encoded], matrix_BM: Tensor, value_N: Tensor, draws: Draws) -> Tensor:
    """Return the own pairs' numbers of a batch, behind each prompt's those of its draws."""
    of_data = gather_own(batch, matrix_BM).split([len(example.responses) for example in batch])
    return torch.cat([part for own_K, e in zip(of_data, batch, strict=True) for part in (own_K, value_N[draws.of(e)])])


def describe_draws(attempt: AttemptContext, plan: BatchPlan, draws: Draws) -> DrawsFacts:
    """Return what a run tells of its draws; index and own scores of data and draws are kept for previews."""
    folder = Path(attempt.spec.scorings_dir)
    index_key = keep_index(folder, plan.batches, "model").key
    flat = [
        torch.cat([gather_own(batch, matrix_BM) for batch, matrix_BM in zip(plan.batches, matrices, strict=True)])
        for matrices in (plan.logprobs, plan.rewards)
    ]
    keys = []
    for kind, values in zip(("mixed_logprob", "mixed_reward"), flat, strict=True):
        artifact = Artifact(
            kind, FILE, {"index": index_key, "draws": list(draws.keys), "sum": str(float(values.double().sum()))}, {}
        )
        keep_whole(folder, artifact, {"scores": values})
        keys.append(artifact.key)
    index = read_index(folder, index_key)
    origins = compare_origins(flat[0], index.num_tokens_N, index.response_N, index.prompt_of_response)
    return DrawsFacts(
        num_prompts=len(draws.place), num_draws=draws.num_draws, num_finished=int(draws.finished_N.sum()),
        num_tokens=sum(map(len, draws.ids)), hit=draws.hit, index_key=index_key, logprob_key=keys[0], reward_key=keys[1],
        made_keys=draws.keys, data_logprob=origins.data, draw_logprob=origins.draws, gap=origins.gap, gap_error=origins.error,
    )  # fmt: skip
