"""What training by these weights ends in: the optimum π*, and always the same trajectory."""

import json

import pytest
import torch
from torch import Tensor

from tests.var.golden import GOLDEN, train
from worker.var.logprobs import weighted_nll
from worker.var.loss import token_coefficients
from worker.var.weights import Candidates, WeightChoices, compute_weights

torch.set_num_threads(1)

# How often the reference gives each of six responses, in sixtieths, for three prompts; and their rewards.
COUNTS_BK = torch.tensor([[30, 12, 9, 6, 2, 1], [10, 10, 10, 10, 10, 10], [1, 2, 6, 9, 12, 30]])
REWARD_BK = torch.tensor([[0.1, 0.5, -0.3, 1.0, 2.0, 1.4], [0.0, -1.0, 1.0, 0.5, 0.2, -2.0], [2.0, 1.0, 0.3, 0.1, -0.2, 0.4]])
LAMBDA = 0.7


def optimum() -> Tensor:
    """π*(y|x) = π_ref(y|x) e^(r/λ) / Z(x)."""
    return torch.softmax(COUNTS_BK.double().log() + REWARD_BK.double() / LAMBDA, dim=1)


def fit_table(candidates: Candidates, response_M: Tensor, choices: WeightChoices) -> Tensor:
    """A softmax policy with one free logit per prompt and response, trained on one batch; its log-probabilities [B, K]."""
    coefficient_M = token_coefficients(compute_weights(candidates, choices), candidates.num_tokens_M, "token_mean")
    table_KB = torch.zeros(6, 3, dtype=torch.float64, requires_grad=True)
    prompt_MB = torch.eye(3, dtype=torch.float64)[candidates.own_M]
    optimizer = torch.optim.Adam([table_KB], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        loss, _ = weighted_nll(prompt_MB, table_KB, response_M, coefficient_M)
        loss.backward()
        optimizer.step()
    return torch.log_softmax(table_KB.detach().t(), dim=1)


def kl(target_BK: Tensor, logprob_BK: Tensor) -> float:
    """KL(π* ‖ π_θ) of the worst prompt, in nats."""
    return float((target_BK * (target_BK.log() - logprob_BK)).sum(dim=1).max())


def enumerate_responses(times_BK: Tensor) -> tuple[Candidates, Tensor]:
    """Every response of every prompt, as often as told."""
    own_M = torch.repeat_interleave(torch.arange(3), times_BK.sum(dim=1))
    response_M = torch.cat([torch.repeat_interleave(torch.arange(6), times_K) for times_K in times_BK])
    logprob_BM = (COUNTS_BK.double() / 60).log()[:, response_M]
    return Candidates(own_M, logprob_BM, torch.ones_like(own_M), REWARD_BK.double()[:, response_M]), response_M


def test_within_prompt_weights_on_the_references_own_draws_reach_the_optimum() -> None:
    """Each response as often as π_ref draws it: Σ_draws w log π_θ is then E_ref[π*/π_ref · log π_θ]."""
    candidates, response_M = enumerate_responses(COUNTS_BK)
    choices = WeightChoices(weight_form="ratio", partition_scope="prompt", cross_reward="reuse", lambda_=LAMBDA)
    logprob_BK = fit_table(candidates, response_M, choices)
    assert kl(optimum(), logprob_BK) < 1e-3
    assert kl(optimum(), (COUNTS_BK.double() / 60).log()) > 0.1  # the start was far away


def test_posterior_weights_on_every_response_once_reach_the_optimum() -> None:
    candidates, response_M = enumerate_responses(torch.ones_like(COUNTS_BK))
    choices = WeightChoices(partition_scope="prompt", logprob_norm="sum", lambda_=LAMBDA)
    assert kl(optimum(), fit_table(candidates, response_M, choices)) < 1e-3


def test_without_the_reference_the_optimum_is_missed() -> None:
    """The control: on every response once, exp(r/λ) alone ends in softmax(r/λ)."""
    candidates, response_M = enumerate_responses(torch.ones_like(COUNTS_BK))
    logprob_BK = fit_table(candidates, response_M, WeightChoices(weight_form="reward", cross_reward="reuse", lambda_=LAMBDA))
    assert kl(torch.softmax(REWARD_BK.double() / LAMBDA, dim=1), logprob_BK) < 1e-3
    assert kl(optimum(), logprob_BK) > 0.1


def test_a_trajectory_repeats_bit_by_bit() -> None:
    assert train() == train()


def test_the_trajectory_is_the_golden_one() -> None:
    """Other CPUs add in another order, so the file is held to 1e-5 and bit-equality is asked of a rerun on the same CPU."""
    golden = json.loads(GOLDEN.read_text())
    assert train() == pytest.approx(golden, rel=1e-5)
    assert golden[-1] < 0.8 * golden[0]
