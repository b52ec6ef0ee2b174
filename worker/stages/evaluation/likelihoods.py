"""How likely answers and responses are under policy and reference, token by token, and how far the two stand apart there.

Numbers are kept to DECIMALS: what is told is computed from what is kept, so that the files give the very same figures.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from worker.models.adapter import LanguageModel
from worker.models.padding import BESIDE_TRAINING, group_rows
from worker.stages.batches import Rows, collate
from worker.stages.examples import Encoded
from worker.stages.held_out import look_at
from worker.var.divergence import Predictions, token_divergences
from worker.var.logprobs import token_logprobs

DECIMALS = 6
AsReference = Callable[[], AbstractContextManager[LanguageModel]]
Pair = tuple[Sequence[int], Sequence[int]]  # ids of a prompt and of what follows it


class DrawLikelihoods(NamedTuple):
    """Of one draw, per token: log π_θ, log π_ref, and KL(π_θ‖π_ref) over the whole vocabulary."""

    policy: list[float]
    reference: list[float]
    kls: list[float]


@torch.inference_mode()
def measure_tokens(model: LanguageModel, pairs: Sequence[Pair], check: Callable[[], None]) -> list[list[float]]:
    """Return log π of each token of each pair's second part."""
    found: list[list[float]] = [[] for _ in pairs]
    was_training = model.network.training
    model.network.eval()
    try:
        for chosen in _group(pairs):
            check()
            rows = collate([pairs[k] for k in chosen]).to(model.device)
            logprob_N = token_logprobs(_hidden(model, rows), model.head.weight_VD, rows.target_N, **model.head.options())
            _hand_out(logprob_N, [(k, pairs[k]) for k in chosen], found)
    finally:
        model.network.train(was_training)
    return found


@torch.inference_mode()
def measure_draws(
    model: LanguageModel, as_reference: AsReference, pairs: Sequence[Pair], check: Callable[[], None]
) -> list[DrawLikelihoods]:
    """Return both models' log-probabilities of the policy's own draws, and the divergence at each of their tokens."""
    columns: list[list[list[float]]] = [[[] for _ in pairs] for _ in range(3)]
    was_training = model.network.training
    model.network.eval()
    try:
        for chosen in _group(pairs):
            check()
            rows = collate([pairs[k] for k in chosen]).to(model.device)
            policy = _predict(model, rows)
            with as_reference() as reference:
                divergences = token_divergences(policy, _predict(reference, rows), rows.target_N)
            for column, value_N in zip(columns, (divergences.policy_N, divergences.reference_N, divergences.kl_N), strict=True):
                _hand_out(value_N, [(k, pairs[k]) for k in chosen], column)
    finally:
        model.network.train(was_training)
    return [DrawLikelihoods(*rows_) for rows_ in zip(*columns, strict=True)]


def measure_responses(model: LanguageModel, examples: Sequence[Encoded], check: Callable[[], None]) -> list[list[float]]:
    """Return Σ_t log π of those responses of each example that count (`look_at`)."""
    pairs = [(example.prompt_before(response), response.ids) for example in examples for response in look_at(example)]
    sums = iter([add_up(values) for values in measure_tokens(model, pairs, check)])
    return [[next(sums) for _ in look_at(example)] for example in examples]


def add_up(values: Sequence[float]) -> float:
    """Return the sum over an answer's tokens, as it is kept."""
    return round(sum(values), DECIMALS)


def _group(pairs: Sequence[Pair]) -> list[list[int]]:
    return group_rows([len(prompt) + len(following) for prompt, following in pairs], BESIDE_TRAINING)


def _hidden(model: LanguageModel, rows: Rows) -> Tensor:
    hidden_ND: Tensor = model.run(rows.ids_RT, rows.mask_RT).last_hidden_state.flatten(0, 1)[rows.place_N]
    return hidden_ND


def _predict(model: LanguageModel, rows: Rows) -> Predictions:
    return Predictions(_hidden(model, rows), model.head.weight_VD, **model.head.options())


def _hand_out(value_N: Tensor, chosen: Sequence[tuple[int, Pair]], found: list[list[float]]) -> None:
    """Give each row its part of the values, which lie one row after the other."""
    values = iter(value_N.double().cpu().tolist())
    for k, (_, following) in chosen:
        found[k] = [round(next(values), DECIMALS) for _ in following]
