"""Where data come from: how likely the reference finds the data's responses beside its own draws, prompt by prompt.

Legend: N responses of all batches, data and draws; P prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.stages.examples import Encoded
from worker.stages.held_out import look_at


@dataclass(frozen=True)
class Origins:
    """log π_ref per token, mean over prompts: of the data's responses, of the draws; the mean of the difference, and its standard
    error over the prompts (None: a single one).
    """

    data: float
    draws: float
    gap: float
    error: float | None


def compare_origins(logprob_N: Tensor, num_tokens_N: Tensor, number_N: Tensor, prompt_N: Tensor) -> Origins:
    """Compare data and draws.

    `logprob_N`: log π_ref of each response, summed; `number_N`: its number within its example, below 0 for a draw; equal
    `prompt_N` mark the responses of one example. Every prompt has both.
    """
    per_token_N = logprob_N.double() / num_tokens_N.clamp(min=1)

    def mean(counted_N: Tensor) -> Tensor:
        prompt_C = prompt_N[counted_N].long()
        num_P = torch.bincount(prompt_C)
        total_P = torch.zeros(len(num_P), dtype=torch.float64).index_add(0, prompt_C, per_token_N[counted_N])
        return total_P / num_P

    data_P, draws_P = mean(number_N >= 0), mean(number_N < 0)
    gap_P = data_P - draws_P
    error = float(gap_P.std(correction=1)) / len(gap_P) ** 0.5 if len(gap_P) > 1 else None
    return Origins(float(data_P.mean()), float(draws_P.mean()), float(gap_P.mean()), error)


def compare_held_out(
    prompts: Sequence[Encoded],
    answers: Sequence[Sequence[float]],
    examples: Sequence[Encoded],
    responses: Sequence[Sequence[float]],
) -> Origins | None:
    """Return the same of held-out prompts, where the reference has answered some: `answers` are log π_ref of each token of its
    answers, `responses` summed those of the examples' responses that count. None where no prompt has both.
    """
    drawn = {prompt.example_id: sum(tokens) / len(tokens) for prompt, tokens in zip(prompts, answers, strict=True) if tokens}
    rows = [
        (sum(sums) / sum(len(response.ids) for response in look_at(example)), drawn[example.example_id])
        for example, sums in zip(examples, responses, strict=True)
        if example.example_id in drawn and sums
    ]
    if len(rows) < 2:
        return None
    data_P, draws_P = torch.tensor(rows, dtype=torch.float64).unbind(1)
    gap_P = data_P - draws_P
    error = float(gap_P.std(correction=1)) / len(rows) ** 0.5
    return Origins(float(data_P.mean()), float(draws_P.mean()), float(gap_P.mean()), error)
