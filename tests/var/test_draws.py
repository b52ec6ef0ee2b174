"""Z(x) from draws of the reference: its mean and its error by exact enumeration, and the weights that come of it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from worker.var.candidates import Candidates, stack
from worker.var.describe import describe_weighed
from worker.var.diagnostics import describe_weights
from worker.var.draws import draws_needed, log_partition, log_partition_without, partition_errors
from worker.var.stacks import weigh
from worker.var.terms import make_terms
from worker.var.weights import WeightChoices, compute_weights

torch.set_num_threads(1)

REFERENCE = [0.5, 0.3, 0.15, 0.05]
EXPONENT = [0.0, 1.0, -0.5, 3.0]
Z = sum(p * math.exp(x) for p, x in zip(REFERENCE, EXPONENT, strict=True))
CHOICES = WeightChoices("ratio", "draws", cross_reward="reuse", mean_one=False, lambda_=1.0)


def every_draw(num: int):
    """All tuples of responses that K draws may be, with their probabilities."""
    for drawn in itertools.product(range(len(REFERENCE)), repeat=num):
        yield drawn, math.prod(REFERENCE[y] for y in drawn)


def as_exponents(drawn) -> torch.Tensor:
    return torch.tensor([[EXPONENT[y] for y in drawn]], dtype=torch.float64)


def batch_of(rewards, draws, draw_numbers=None, own=None) -> Candidates:
    """Responses of the given rewards, one prompt (or `own`), whose draws have the rewards `draws`."""
    own_M = torch.tensor(own or [0] * len(rewards))
    reward_M, draw_BK = torch.tensor(rewards, dtype=torch.float64), torch.tensor(draws, dtype=torch.float64)
    reward_BM = torch.full((len(draw_BK), len(own_M)), math.nan, dtype=torch.float64)
    reward_BM[own_M, torch.arange(len(own_M))] = reward_M
    numbers = [-1] * len(rewards) if draw_numbers is None else draw_numbers
    return Candidates(
        own_M, torch.full_like(reward_BM, math.nan), torch.ones_like(own_M), reward_BM, None, draw_BK, torch.tensor(numbers)
    )


@pytest.mark.parametrize("num", [2, 3, 4])
def test_the_mean_over_draws_is_z_on_average(num):
    mean = sum(p * float(log_partition(as_exponents(drawn)).exp()) for drawn, p in every_draw(num))
    assert mean == pytest.approx(Z, rel=1e-12)


@pytest.mark.parametrize("num", [2, 3])
def test_without_a_draw_the_mean_is_z_whatever_that_draw_is_and_with_it_is_not(num):
    for y, own in enumerate(EXPONENT):
        without = with_it = 0.0
        for drawn, p in every_draw(num):
            if drawn[0] == y:
                without += p / REFERENCE[y] * float(log_partition_without(as_exponents(drawn))[0, 0].exp())
                with_it += p / REFERENCE[y] * float(log_partition(as_exponents(drawn)).exp())
        assert without == pytest.approx(Z, rel=1e-12)
        assert with_it == pytest.approx(Z + (math.exp(own) - Z) / num, rel=1e-12)


@pytest.mark.parametrize("num", [2, 3, 4])
def test_draws_as_training_responses_tend_to_the_optimum_since_each_is_weighed_by_the_others(num):
    """E[w | y_1 = y] ∝ e^r by enumeration, so the limit π_ref·E[w] is π*; with its own term in Ẑ it is not."""
    optimum = [p * math.exp(x) / Z for p, x in zip(REFERENCE, EXPONENT, strict=True)]
    limits = []
    for estimate in (lambda x: log_partition_without(x)[0, 0], lambda x: log_partition(x)[0]):
        expected = [0.0] * len(REFERENCE)
        for drawn, p in every_draw(num):
            weight = math.exp(EXPONENT[drawn[0]] - float(estimate(as_exponents(drawn))))
            expected[drawn[0]] += p * weight  # π_ref(y) E[w | y]
        limits.append([part / sum(expected) for part in expected])
    assert limits[0] == pytest.approx(optimum, rel=1e-12)
    assert max(abs(a - b) for a, b in zip(limits[1], optimum, strict=True)) > 0.02


def test_where_the_datas_responses_are_alike_to_the_draws_the_weights_are_those_within_the_prompt():
    """Ẑ is then the mean over the prompt's own responses, and π_ref is in neither."""
    rewards = [[0.3, -1.0, 2.0], [1.0, 1.0, 0.0]]
    flat, own = [r for prompt in rewards for r in prompt], [0, 0, 0, 1, 1, 1]
    batch = batch_of(flat, rewards, own=own)
    within = WeightChoices("ratio", "prompt", cross_reward="reuse", mean_one=False, lambda_=0.7)
    want_M = compute_weights(replace(batch, draw_M=None, draw_reward_BK=None), within)
    have_M = compute_weights(batch, replace(CHOICES, lambda_=0.7))
    assert have_M.tolist() == pytest.approx(want_M.tolist(), rel=1e-12)
    # As draws themselves they leave their own term out: w becomes w (K − 1)/(K − w).
    drawn_M = compute_weights(replace(batch, draw_M=torch.tensor([0, 1, 2, 0, 1, 2])), replace(CHOICES, lambda_=0.7))
    assert drawn_M.tolist() == pytest.approx([w * 2 / (3 - w) for w in want_M.tolist()], rel=1e-9)


def test_a_weight_is_worked_by_hand():
    batch = batch_of([math.log(3.0), 0.0], [[0.0, math.log(3.0)]], [-1, 0])
    assert compute_weights(batch, CHOICES).tolist() == pytest.approx([3 / 2, 1 / 3])


@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_stays_finite_at_the_largest_exponents(scale, dtype):
    batch = batch_of([scale, 0.0, scale - 1], [[0.0, scale, scale - 1, 0.5]], [-1, 0, 2])
    batch = replace(batch, reward_BM=batch.reward_BM.to(dtype), draw_reward_BK=batch.draw_reward_BK.to(dtype))
    for choices in (CHOICES, replace(CHOICES, mean_one=True)):
        weight_M = compute_weights(batch, choices)
        assert weight_M.isfinite().all()
        assert (weight_M >= 0).all()
    lone = log_partition_without(torch.tensor([[0.0, -2e4, -2e4]], dtype=dtype))
    assert lone.tolist()[0] == pytest.approx([-2e4, -math.log(2), -math.log(2)])


def test_a_constant_on_all_rewards_of_a_prompt_changes_nothing():
    plain = compute_weights(batch_of([0.1, 1.2], [[0.0, 2.0, 1.0]], [-1, 1]), CHOICES)
    moved = compute_weights(batch_of([5.1, 6.2], [[5.0, 7.0, 6.0]], [-1, 1]), CHOICES)
    assert moved.tolist() == pytest.approx(plain.tolist(), rel=1e-12)


def test_a_stack_of_ragged_batches_has_the_weights_and_the_numbers_of_each():
    batches = [
        batch_of([0.1, 1.2, -0.4], [[0.0, 2.0], [1.0, 1.5]], [-1, 1, 0], own=[0, 0, 1]),
        batch_of([0.7], [[0.2, -0.2]]),
        batch_of([0.3, 0.4, 2.0, 1.0], [[1.0, 0.0], [0.5, 0.1], [2.0, -1.0]], [-1, -1, 1, 0], own=[0, 1, 2, 2]),
    ]
    batches = [replace(batch, enters_M=batch.draw_M < 0) for batch in batches]
    weighed = weigh(make_terms(stack(batches), CHOICES), 1.0)
    found = describe_weighed(weighed, weighed.weight_SM)
    for k, batch in enumerate(batches):
        weight_M = compute_weights(batch, CHOICES)
        assert weighed.weight_SM[k, : len(weight_M)].tolist() == pytest.approx(weight_M.tolist())
        for key, value in describe_weights(batch, weight_M, CHOICES).items():
            assert float(found[key][k]) == pytest.approx(value, rel=1e-6), key
    assert "weight/partition_error" in found
    assert "weight/off_diagonal" not in found


def test_without_draws_the_sentence_says_to_make_them():
    batch = replace(batch_of([0.1, 1.0], [[0.0, 2.0]]), draw_reward_BK=None, draw_M=None)
    with pytest.raises(ValueError, match="draws are missing or not finite: make the draws first"):
        compute_weights(batch, CHOICES)


def test_the_error_of_log_z_is_that_of_repeated_draws_and_falls_with_their_root():
    chance = torch.Generator().manual_seed(0)
    reward_XY = 0.5 * torch.randn(400_0, 64, generator=chance, dtype=torch.float64)
    told, seen = partition_errors(reward_XY), log_partition(reward_XY)
    assert float(told.square().mean().sqrt()) == pytest.approx(float(seen.std()), rel=0.1)
    fewer = partition_errors(reward_XY[:, :16])
    assert float(fewer.square().mean().sqrt()) == pytest.approx(2 * float(told.square().mean().sqrt()), rel=0.1)
    assert draws_needed(told, 64, float(told.square().mean().sqrt()) / 2) == 256


def test_the_error_of_alike_draws_is_0_and_of_a_single_one_that_counts_1():
    alike, lone = torch.zeros(1, 5), torch.tensor([[50.0, 0.0, 0.0, 0.0, 0.0]])
    assert partition_errors(torch.cat([alike, lone])).tolist() == pytest.approx([0.0, 1.0])
    assert draws_needed(torch.zeros(3), 16, 0.1) == 2
