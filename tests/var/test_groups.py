"""Advantages and factors of RLOO, GRPO and RAFT: by hand, one number at a time, their slopes, and what clipping leaves."""

import math
import random
from statistics import fmean, stdev

import pytest
import torch

from worker.var.groups import group_advantages, group_terms

OWN = [0, 0, 0, 1, 1, 1]


def advantages(estimator: str, rewards, own=OWN) -> list[float]:
    return group_advantages(torch.tensor(rewards, dtype=torch.float64), torch.tensor(own), estimator).tolist()


def test_rloo_leaves_the_response_itself_out():
    assert advantages("rloo", [3.0, 0.0, 0.0, 1.0, 2.0, 6.0]) == pytest.approx([3, -1.5, -1.5, -3, -1.5, 4.5])


def test_grpo_is_in_deviations_of_the_group():
    rewards = [3.0, 0.0, 0.0, 1.0, 2.0, 6.0]
    want = [(r - fmean(g)) / (stdev(g) + 1e-4) for g in (rewards[:3], rewards[3:]) for r in g]
    assert advantages("grpo", rewards) == pytest.approx(want)


def test_raft_takes_the_first_best():
    assert advantages("raft", [1.0, 3.0, 3.0, 0.0, 0.0, 0.0]) == [0, 1, 0, 1, 0, 0]


def test_groups_of_unlike_size_stay_apart():
    assert advantages("rloo", [2.0, 0.0, 1.0, 1.0, 4.0], [0, 0, 1, 1, 1]) == pytest.approx([2, -2, -1.5, -1.5, 3])


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_equal_rewards_teach_nothing_and_a_constant_changes_nothing(estimator):
    assert advantages(estimator, [5.0] * 6) == [0.0] * 6
    rewards = [3.0, 0.0, 1.0, 1.0, 2.0, 6.0]
    assert advantages(estimator, [r + 100 for r in rewards]) == pytest.approx(advantages(estimator, rewards))


def plain_loss(logprob, sampler, reference, advantage, clip, kappa) -> float:
    total = 0.0
    for have, drew, base, gain in zip(logprob, sampler, reference, advantage, strict=True):
        ratio = math.exp(have - drew)
        total -= min(ratio * gain, min(max(ratio, 1 - clip), 1 + clip) * gain)
        total += kappa * (math.exp(base - have) - (base - have) - 1)
    return total / len(logprob)


def draw(seed: int, num: int = 8):
    chance = random.Random(seed)
    logprob = [-chance.uniform(0.1, 4) for _ in range(num)]
    near = [[x + chance.uniform(-0.5, 0.5) for x in logprob] for _ in range(2)]
    return logprob, *near, [chance.uniform(-2, 2) for _ in range(num)]


def terms(logprob, sampler, reference, advantage, part=slice(None), clip=0.2, kappa=0.1):
    values = [torch.tensor(column, dtype=torch.float64)[part] for column in (logprob, sampler, reference, advantage)]
    return group_terms(*values, clip, kappa, len(logprob))


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_the_plain_one_and_the_factors_are_its_slopes(seed):
    logprob, *rest = draw(seed)
    found = terms(logprob, *rest)
    assert float(found.loss) == pytest.approx(plain_loss(logprob, *rest, 0.2, 0.1), rel=1e-12)
    for j in range(len(logprob)):
        up, down = ([x + (h if k == j else 0) for k, x in enumerate(logprob)] for h in (1e-6, -1e-6))
        slope = (plain_loss(up, *rest, 0.2, 0.1) - plain_loss(down, *rest, 0.2, 0.1)) / 2e-6
        assert -float(found.coefficient_U[j]) == pytest.approx(slope, abs=1e-7)


def test_on_policy_it_is_reinforce():
    """With π_θ = π_s = π_ref the factor is the advantage over the units: nothing is clipped, the KL has no slope."""
    found = terms([-1.0, -2.0], [-1.0, -2.0], [-1.0, -2.0], [1.5, -0.5])
    assert found.coefficient_U.tolist() == pytest.approx([0.75, -0.25])
    assert (found.clipped_U.any().item(), found.kl_U.tolist()) == (False, [0.0, 0.0])


def test_what_has_left_the_bounds_gains_nothing_more_but_is_brought_back():
    """Ratio e^0.5: with a good response clipped, with a bad one not."""
    found = terms([-1.0, -1.0], [-1.5, -1.5], [-1.0, -1.0], [1.0, -1.0])
    assert found.clipped_U.tolist() == [True, False]
    assert found.coefficient_U.tolist() == pytest.approx([0.0, -math.exp(0.5) / 2])
    assert float(found.loss) == pytest.approx((-1.2 + math.exp(0.5)) / 2)


def test_parts_of_a_batch_add_up_and_nothing_overflows():
    drawn = draw(5)
    whole, parts = terms(*drawn), [terms(*drawn, slice(k, k + 4)) for k in (0, 4)]
    assert float(sum(part.loss for part in parts)) == pytest.approx(float(whole.loss))
    torch.testing.assert_close(torch.cat([part.coefficient_U for part in parts]), whole.coefficient_U)
    far = terms([-1.0, -900.0], [-900.0, -1.0], [-1.0, -1.0], [-1.0, 1.0])
    assert far.loss.isfinite()
    assert far.coefficient_U.isfinite().all()


def test_a_table_of_two_answers_learns_the_better_one_by_each():
    """A policy over two answers to one prompt, drawn exactly as often as it says: the better one's share must grow."""
    for estimator in ("rloo", "grpo", "raft"):
        logits = torch.zeros(2, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            logprob = torch.log_softmax(logits, 0)
            drawn = torch.multinomial(logprob.exp(), 8, replacement=True, generator=generator)
            reward_M = drawn.double()
            advantage_M = group_advantages(reward_M, torch.zeros(8, dtype=torch.long), estimator)
            slope = (advantage_M[:, None] * (torch.eye(2, dtype=torch.float64)[drawn] - logprob.exp())).mean(0)
            logits = logits + 0.5 * slope
        assert float(torch.softmax(logits, 0)[1]) > 0.75, estimator
