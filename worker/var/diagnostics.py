"""What a batch's weights look like: every quantity that tells healthy weights from degenerate ones (docs/method.md).

Shapes: B prompts, M responses of a batch; S batches. Keys are those of the studio's catalogue of metrics. A quantity that a batch
doesn't have (no preference labels, no spread to correlate) is left out rather than made up.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.var.candidates import Candidates, WeightChoices
from worker.var.describe import describe_weighed
from worker.var.weights import weigh_batch


@torch.no_grad()
def describe_weights(
    candidates: Candidates,
    weight_M: Tensor,
    choices: WeightChoices,
    preference_M: Tensor | None = None,
    *,
    reward_mean: float = 0.0,
    reward_std: float = 1.0,
) -> dict[str, float]:
    """Return all `weight/…` and `reward/…` metrics of one batch, finite floats.

    `weight_M` as compute_weights made it; `preference_M` int: 1 chosen, −1 rejected, anything else neither.
    Statistics of w are over the responses that enter the loss; those of Z(x) over every prompt of the batch.
    """
    weighed = weigh_batch(candidates, choices, reward_mean=reward_mean, reward_std=reward_std)
    found = describe_weighed(weighed, weight_M[None], None if preference_M is None else preference_M[None])
    return {key: float(value_S) for key, value_S in found.items() if not value_S.isnan()}


def histogram(weights: Tensor, edges: Sequence[float]) -> list[int]:
    """Return how many weights lie in each bin: len(edges) + 1 counts; bin k holds edges[k−1] ≤ w < edges[k], the outer two are
    open.
    """
    edge_E = torch.tensor(edges, dtype=torch.float64, device=weights.device)
    counts: list[int] = (
        torch.bucketize(weights.double().flatten(), edge_E, right=True).bincount(minlength=len(edges) + 1).tolist()
    )
    return counts
