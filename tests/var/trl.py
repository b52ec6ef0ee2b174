"""Fixed responses on which our losses are held against TRL's: inputs, settings, and ours of them.

What TRL 1.16 makes of these inputs by its own code stands in trl_losses.json, written by `python -m tests.bench.trl_losses`.
"""

import random

import torch
from torch import Tensor

from worker.var.groups import group_advantages, group_terms
from worker.var.kto import kto_terms
from worker.var.preferences import Ipo, Likelihoods, Orpo, Simpo, Totals

LENGTHS = (4, 7, 3, 5, 6, 4)  # of responses; the even ones are chosen, each before its rejected one
OWN_M = torch.tensor([0, 0, 0, 1, 1, 1])  # as groups of three
BETAS = {"ipo": 0.2, "simpo": 2.0, "orpo": 0.1, "kto": 0.1}
GAMMA, CLIP, KAPPA = 1.0, 0.2, 0.04
WEIGHTS = (1.0, 1.3)  # KTO's, of desirable and of undesirable responses
REWARDS = (1.0, 3.5, -0.5, 2.0, 2.0, 0.25)
CHOSEN_P, REJECTED_P = torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])


def draw(seed: int, around: Tensor | None = None) -> Tensor:
    """Log-probabilities of the tokens of all responses, one after another: float64 [N]; near others where these are given."""
    chance = random.Random(seed)
    drawn = torch.tensor([chance.uniform(-2.5, -0.1) for _ in range(sum(LENGTHS))], dtype=torch.float64)
    if around is None:
        return drawn
    return around + torch.tensor([chance.uniform(-0.4, 0.4) for _ in range(sum(LENGTHS))], dtype=torch.float64)


LOGPROB_N = draw(0)
REFERENCE_N, SAMPLER_N = draw(1, LOGPROB_N), draw(2, LOGPROB_N)
STRANGE_M, STRANGE_REFERENCE_M = (torch.tensor(values, dtype=torch.float64) for values in ((-9.0, -7.5), (-9.75, -7.25)))
OWNER_N = torch.tensor([j for j, length in enumerate(LENGTHS) for _ in range(length)])


def sums(value_N: Tensor) -> Tensor:
    return value_N.new_zeros(len(LENGTHS)).index_add(0, OWNER_N, value_N)


def ours() -> dict[str, tuple[float, list[float]]]:
    """Return each method's loss and its gradient for every token's log π_θ."""
    logprob_M, reference_M, sampler_M = (sums(value_N) for value_N in (LOGPROB_N, REFERENCE_N, SAMPLER_N))
    tokens_M = torch.tensor(LENGTHS)
    known, totals = Likelihoods(logprob_M, reference_M, tokens_M), Totals(3, int(tokens_M[CHOSEN_P].sum()))
    found = {}
    for name, loss in (("ipo", Ipo(BETAS["ipo"])), ("simpo", Simpo(BETAS["simpo"], GAMMA)), ("orpo", Orpo(BETAS["orpo"]))):
        terms = loss.terms(known, CHOSEN_P, REJECTED_P, totals)
        found[name] = terms.loss, terms.coefficient_M[OWNER_N]
    kl = max(0.0, float((STRANGE_M - STRANGE_REFERENCE_M).mean()))
    sign_M = torch.tensor([1, -1] * 3)
    kto = kto_terms(logprob_M, reference_M, sign_M, kl, BETAS["kto"], WEIGHTS, len(LENGTHS))
    found["kto"] = kto.loss, kto.coefficient_M[OWNER_N]
    reward_M = torch.tensor(REWARDS, dtype=torch.float64)
    advantage_M = group_advantages(reward_M, OWN_M, "grpo")
    grpo = group_terms(LOGPROB_N, SAMPLER_N, REFERENCE_N, advantage_M[OWNER_N], CLIP, KAPPA, len(LOGPROB_N))
    found["grpo"] = grpo.loss, grpo.coefficient_U
    advantage_M = group_advantages(reward_M - KAPPA * (sampler_M - reference_M), OWN_M, "rloo")
    rloo = group_terms(logprob_M, sampler_M, None, advantage_M, CLIP, 0.0, len(LENGTHS))
    found["rloo"] = rloo.loss, rloo.coefficient_U[OWNER_N]
    return {name: (float(loss), (-coefficient_N).tolist()) for name, (loss, coefficient_N) in found.items()}
