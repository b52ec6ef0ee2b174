"""Made-up batches, as the product's tensors and as the plain reference's lists."""

import random

import torch

from tests.var import plain
from worker.var.weights import Candidates


def draw_batch(seed: int, sizes: tuple[int, ...] = (2, 1, 3), *, spread: float = 1.0) -> plain.Batch:
    """A batch with `sizes[i]` responses of prompt i; rewards with standard deviation `spread`."""
    chance = random.Random(seed)
    own = [i for i, size in enumerate(sizes) for _ in range(size)]
    chance.shuffle(own)
    tokens = [chance.randint(1, 40) for _ in own]
    return plain.Batch(
        own=own,
        logprob=[[-1.2 * chance.uniform(0.3, 1.7) * tokens[j] for j in range(len(own))] for _ in sizes],
        tokens=tokens,
        reward=[[chance.gauss(0, spread) for _ in own] for _ in sizes],
    )


def as_candidates(batch: plain.Batch, dtype: torch.dtype = torch.float64) -> Candidates:
    return Candidates(
        own_M=torch.tensor(batch.own),
        logprob_BM=torch.tensor(batch.logprob, dtype=dtype),
        num_tokens_M=torch.tensor(batch.tokens),
        reward_BM=torch.tensor(batch.reward, dtype=dtype),
    )
