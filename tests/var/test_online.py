import math
import random

import pytest
import torch

from tests.var.test_learning import COUNTS_BK, LAMBDA, REWARD_BK, enumerate_responses, fit_table, kl, optimum
from worker.var.logprobs import weighted_nll
from worker.var.loss import token_coefficients
from worker.var.online import online_candidates, online_choices
from worker.var.weights import WeightChoices, compute_weights


def plain_weights(own, reference, sampler, tokens, reward, *, lambda_, norm, form) -> list[float]:
    """w of every fresh response, one number at a time."""

    def boost(j: int) -> float:
        ratio = 0.0 if form == "reward" else reference[j] - sampler[j]
        return math.exp((ratio / tokens[j] if norm == "mean" else ratio) + reward[j] / lambda_)

    mates = {i: [k for k in range(len(own)) if own[k] == i] for i in set(own)}
    return [len(mates[own[j]]) * boost(j) / sum(boost(k) for k in mates[own[j]]) for j in range(len(own))]


def draw(seed: int, num_prompts: int = 3, num_each: int = 4):
    chance = random.Random(seed)
    own = [i for i in range(num_prompts) for _ in range(num_each)]
    tokens = [chance.randint(1, 12) for _ in own]
    reference = [-chance.uniform(0.5, 2) * t for t in tokens]
    sampler = [-chance.uniform(0.5, 2) * t for t in tokens]
    return own, reference, sampler, tokens, [chance.gauss(0, 1) for _ in own]


def weigh(own, reference, sampler, tokens, reward, **choices) -> list[float]:
    as_float = (torch.tensor(values, dtype=torch.float64) for values in (reference, sampler))
    candidates = online_candidates(torch.tensor(own), *as_float, torch.tensor(tokens), torch.tensor(reward, dtype=torch.float64))
    return compute_weights(candidates, online_choices(WeightChoices(**choices))).tolist()


@pytest.mark.parametrize("norm", ["sum", "mean"])
@pytest.mark.parametrize("form", ["posterior", "ratio", "reward"])
@pytest.mark.parametrize("seed", range(3))
def test_the_weights_are_the_plain_ones(norm, form, seed):
    batch = draw(seed)
    have = weigh(*batch, logprob_norm=norm, weight_form=form, lambda_=0.6)
    assert have == pytest.approx(plain_weights(*batch, lambda_=0.6, norm=norm, form=form), rel=1e-9)


@pytest.mark.parametrize("norm", ["sum", "mean"])
def test_two_responses_of_the_reference_itself_share_by_the_sigmoid_of_their_rewards(norm):
    first, second = weigh([0, 0], [-9.0, -4.0], [-9.0, -4.0], [5, 3], [1.0, 0.4], logprob_norm=norm, lambda_=0.2)
    assert first / 2 == pytest.approx(1 / (1 + math.exp(-3)))
    assert (first + second) / 2 == pytest.approx(1)


def test_draws_of_the_optimum_itself_all_weigh_one():
    """π_s = π*: u is Z(x) for every response, so training comes to rest there."""
    response_M, own_M = torch.arange(6).repeat(3), torch.arange(3).repeat_interleave(6)
    reference_BK = (COUNTS_BK.double() / 60).log()
    candidates = online_candidates(
        own_M, reference_BK[own_M, response_M], optimum().log()[own_M, response_M], torch.ones_like(own_M),
        REWARD_BK.double()[own_M, response_M],
    )  # fmt: skip
    weights = compute_weights(candidates, online_choices(WeightChoices(logprob_norm="sum", lambda_=LAMBDA)))
    assert weights.tolist() == pytest.approx([1.0] * 18)


@pytest.mark.parametrize("form", ["posterior", "reward"])
def test_a_round_has_one_scale_whatever_meets_in_its_batches(form):
    """Every prompt's fresh weights add up to K: rescaling by batch or by data set is the same constant, so neither is a bias."""
    own, *rest = draw(3, num_prompts=3, num_each=4)
    together = weigh(own, *rest, lambda_=0.6, weight_form=form, logprob_norm="sum")
    alone = [
        weight
        for i in range(3)
        for weight in weigh(
            [0] * 4, *(part[4 * i : 4 * i + 4] for part in rest), lambda_=0.6, weight_form=form, logprob_norm="sum"
        )
    ]
    assert together == pytest.approx(alone, rel=1e-9)


def train_online(rounds: int, num_each: int, temperature: float = 1.0) -> torch.Tensor:
    """A softmax table that answers, is weighed on its own answers, and answers again; its log-probabilities [B, K]."""
    generator = torch.Generator().manual_seed(0)
    reference_BK = (COUNTS_BK.double() / 60).log()
    table_KB = reference_BK.t().clone().requires_grad_()
    optimizer = torch.optim.Adam([table_KB], lr=0.05)
    choices = online_choices(WeightChoices(logprob_norm="sum", lambda_=LAMBDA))
    own_M = torch.arange(3).repeat_interleave(num_each)
    for number in range(rounds):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - number / rounds)
        sampler_BK = torch.log_softmax(table_KB.detach().t() / temperature, dim=1)
        response_M = torch.multinomial(sampler_BK.exp(), num_each, replacement=True, generator=generator).flatten()
        ones_M = torch.ones_like(own_M)
        candidates = online_candidates(
            own_M, reference_BK[own_M, response_M], sampler_BK[own_M, response_M], ones_M, REWARD_BK.double()[own_M, response_M]
        )
        coefficient_M = token_coefficients(compute_weights(candidates, choices), ones_M, "token_mean")
        prompt_MB = torch.eye(3, dtype=torch.float64)[own_M]
        for _ in range(2):
            optimizer.zero_grad()
            weighted_nll(prompt_MB, table_KB, response_M, coefficient_M)[0].backward()
            optimizer.step()
    return torch.log_softmax(table_KB.detach().t(), dim=1)


def test_where_the_data_covers_little_fresh_responses_come_nearer_to_the_optimum():
    """The data holds two responses per prompt, and mostly not those of the highest reward."""
    times_BK = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]])
    candidates, response_M = enumerate_responses(times_BK)
    within = WeightChoices(weight_form="ratio", partition_scope="prompt", cross_reward="reuse", lambda_=LAMBDA)
    offline, online = kl(optimum(), fit_table(candidates, response_M, within)), kl(optimum(), train_online(400, 8))
    untrained = kl(optimum(), (COUNTS_BK.double() / 60).log())
    assert online < 0.02 < untrained < offline


@pytest.mark.long
def test_few_responses_drawn_below_temperature_1_collapse_though_their_density_is_in_the_weights():
    """Why such a temperature is refused: what is not drawn can't be weighed."""

    def entropy(logprob_BK: torch.Tensor) -> float:
        return float(-(logprob_BK.exp() * logprob_BK).sum(dim=1).mean())

    wanted = entropy(optimum().log())
    assert entropy(train_online(400, 2, temperature=0.5)) < 0.2 * wanted
    assert entropy(train_online(400, 2)) > 0.6 * wanted
    assert kl(optimum(), train_online(400, 16, temperature=0.8)) < 0.1
