"""A tiny model trained for thirty steps by the whole of worker.var, always the same: the golden loss trajectory.

`python -m tests.var.golden` writes it anew, for a change that is meant to change the mathematics.
"""

import json
from pathlib import Path

import torch

from tests.var.batches import as_candidates, draw_batch
from worker.var.logprobs import weighted_nll
from worker.var.loss import token_coefficients
from worker.var.weights import WeightChoices, compute_weights

GOLDEN = Path(__file__).with_name("golden_losses.json")
NUM_STEPS, NUM_BATCHES, VOCABULARY, WIDTH = 30, 3, 23, 8


def train() -> list[float]:
    """The float32 losses of an embedding, a tanh and a head on three made-up batches, two micro-batches a step, AdamW."""
    chance = torch.Generator().manual_seed(7)
    table_VD = torch.randn(VOCABULARY, WIDTH, generator=chance).requires_grad_()
    head_VD = torch.randn(VOCABULARY, WIDTH, generator=chance).requires_grad_()
    optimizer = torch.optim.AdamW([table_VD, head_VD], lr=0.03, weight_decay=0.01)
    batches = [as_candidates(draw_batch(seed, sizes=(2, 2, 2)), torch.float32) for seed in range(NUM_BATCHES)]
    plan = []
    for batch in batches:
        weight_M = compute_weights(batch, WeightChoices(lambda_=0.5))
        owner_N = torch.repeat_interleave(torch.arange(6), batch.num_tokens_M)
        text_N = torch.randint(0, VOCABULARY, (len(owner_N) + 1,), generator=chance)
        plan.append((token_coefficients(weight_M, batch.num_tokens_M, "token_mean")[owner_N], text_N))
    losses = []
    for step in range(NUM_STEPS):
        coefficient_N, text_N = plan[step % NUM_BATCHES]
        optimizer.zero_grad()
        total = 0.0
        for rows in (slice(0, 40), slice(40, None)):
            hidden_ND = torch.tanh(table_VD[text_N[:-1][rows]])
            loss, _ = weighted_nll(hidden_ND, head_VD, text_N[1:][rows], coefficient_N[rows], chunk_size=32)
            loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)
    return losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    GOLDEN.write_text(json.dumps(train(), indent=1) + "\n")
