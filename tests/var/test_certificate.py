"""Pairs that are dropped with a certificate change no weight; against the full computation, for any scores."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.var.certificate import TAU, bound_rewards, droppable, holds_for, logprob_floors
from worker.var.weights import WeightChoices

torch.set_num_threads(1)

SEEDS = st.integers(0, 2**32 - 1)


def draw(seed: int, nats: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """own_M, running sums of the log-probabilities [B, M, T], rewards [B, M]; foreign responses cost `nats` more a token."""
    chance = torch.Generator().manual_seed(seed)
    own_M = torch.arange(4).repeat_interleave(torch.randint(1, 4, (4,), generator=chance))
    foreign_BM = own_M != torch.arange(4)[:, None]
    tokens_BMT = torch.rand(4, len(own_M), 30, generator=chance).log() - nats * foreign_BM[:, :, None]
    return own_M, tokens_BMT.double().cumsum(2), torch.randn(4, len(own_M), generator=chance).double()


def posterior(logprob_BM: torch.Tensor, reward_BM: torch.Tensor, own_M: torch.Tensor, lambda_: float) -> torch.Tensor:
    """w_j, written out on the spot."""
    return torch.softmax(logprob_BM + reward_BM / lambda_, dim=1).gather(0, own_M[None])[0]


@given(SEEDS, st.floats(0, 6), st.floats(0.02, 50), st.floats(1, 100), st.booleans())
@settings(max_examples=200, deadline=None)
def test_weights_without_the_dropped_pairs_are_within_a_millionth(
    seed: int, nats: float, lambda_: float, larger: float, reuses: bool
) -> None:
    """At the λ of the floors and at any larger one, whenever the pass stops."""
    own_M, sums_BMT, reward_BM = draw(seed, nats)
    every_M = torch.arange(len(own_M))
    own_reward_M = reward_BM[own_M, every_M]
    if reuses:
        reward_BM = own_reward_M.expand(reward_BM.shape)
    bound = own_reward_M if reuses else float(reward_BM.max())
    floor_BM = logprob_floors(own_M, sums_BMT[own_M, every_M, -1], own_reward_M, lambda_, bound)
    for num_tokens in (1, 7, 30):
        dropped_BM = droppable(sums_BMT[:, :, num_tokens - 1], floor_BM)
        assert not dropped_BM[own_M, every_M].any()
        kept_BM = sums_BMT[:, :, -1].masked_fill(dropped_BM, -math.inf)
        for served in (lambda_, lambda_ * larger):
            full_M = posterior(sums_BMT[:, :, -1], reward_BM, own_M, served)
            assert (posterior(kept_BM, reward_BM, own_M, served) - full_M).abs().max() < 1e-9


def test_a_pair_that_is_dropped_stays_dropped() -> None:
    own_M, sums_BMT, reward_BM = draw(3, 1.0)
    own_reward_M = reward_BM[own_M, torch.arange(len(own_M))]
    floor_BM = logprob_floors(own_M, sums_BMT[own_M, torch.arange(len(own_M)), -1], own_reward_M, 1.0, float(reward_BM.max()))
    dropped = [droppable(sums_BMT[:, :, t], floor_BM) for t in range(30)]
    assert all((early <= late).all() for early, late in pairwise(dropped))
    assert 0 == dropped[0].sum() < dropped[25].sum() < dropped[-1].sum()


def test_the_floor_worked_by_hand() -> None:
    """Prompt 0 has ℓ = −3, r = 1 and ℓ = −5, r = 3: at λ = .5 best = max(−1, 1) = 1; R = 4: floor = 1 − 25 − 8."""
    own_M = torch.tensor([0, 0, 1])
    logprob_M, reward_M = torch.tensor([-3.0, -5.0, -2.0]), torch.tensor([1.0, 3.0, 2.0])
    floor_BM = logprob_floors(own_M, logprob_M, reward_M, 0.5, 4.0)
    assert floor_BM.tolist() == [[-math.inf, -math.inf, 1 - TAU - 8], [2 - TAU - 8, 2 - TAU - 8, -math.inf]]
    assert droppable(torch.tensor([[-99.0, -99.0, -32.0], [-31.0, -31.1, -99.0]]), floor_BM).tolist() == [
        [False, False, False],
        [False, True, False],
    ]


def test_a_bound_below_the_own_rewards_is_raised_to_them() -> None:
    """Otherwise a pair could come back at a larger λ: its own rival's r/λ would shrink faster than R/λ."""
    own_M, logprob_M, reward_M = torch.tensor([0, 1]), torch.tensor([-9.0, -1.0]), torch.tensor([5.0, 0.0])
    low, high = (logprob_floors(own_M, logprob_M, reward_M, 1.0, bound)[0, 1] for bound in (-10.0, 5.0))
    assert float(low) == float(high) == -9 + 5 - TAU - 5


def test_the_bound_from_a_sample_lies_above_all_of_it() -> None:
    assert bound_rewards(torch.tensor([1.0, 3.0]), margin_std=2.0) == 5.0
    assert bound_rewards(torch.tensor([2.0, 2.0])) == 2.0


def test_it_holds_for_the_summed_posterior_over_the_batch_alone() -> None:
    assert holds_for(WeightChoices(logprob_norm="sum"))
    assert not holds_for(WeightChoices(logprob_norm="mean"))
    assert not holds_for(WeightChoices(logprob_norm="sum", partition_scope="prompt"))
    assert not holds_for(WeightChoices(logprob_norm="sum", weight_form="ratio"))


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        logprob_floors(torch.tensor([0]), torch.zeros(1), torch.zeros(1), 0.0, 1.0)
