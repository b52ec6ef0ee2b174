import math

import pytest
import torch

from worker.var.rewards import LengthFit, fit_length, standardise_within


def test_a_line_worked_by_hand():
    """r = 1 + 2 T but for one response that is 3 above: slope by least squares, R² by hand."""
    fit = fit_length(torch.tensor([3.0, 5.0, 10.0, 9.0]), torch.tensor([1, 2, 3, 4]))
    assert (fit.slope, fit.mean_tokens) == (pytest.approx(2.3), 2.5)  # (−1.5·−3.75 + −.5·−1.75 + .5·3.25 + 1.5·2.25)/5
    assert fit.r_squared == pytest.approx(2.3**2 * 5 / 32.75)


def test_what_length_explains_is_gone_and_nothing_else():
    torch.manual_seed(0)
    tokens_N, own_N = torch.randint(5, 90, (200,)), torch.randn(200)
    reward_N = own_N + 0.05 * tokens_N
    fit = fit_length(reward_N, tokens_N)
    taken_N = fit.take_out(reward_N, tokens_N)
    assert abs(fit_length(taken_N, tokens_N).slope) < 1e-6
    assert float(taken_N.mean()) == pytest.approx(float(reward_N.mean()), abs=1e-5)
    assert float(torch.corrcoef(torch.stack([taken_N, own_N]))[0, 1]) > 0.99


def test_the_line_of_rewards_or_lengths_that_do_not_differ_is_flat():
    for rewards, tokens in (([1.0, 1.0], [3, 9]), ([1.0, 2.0], [5, 5]), ([], []), ([math.nan, 1.0], [1, 2])):
        fit = fit_length(torch.tensor(rewards), torch.tensor(tokens))
        assert fit.slope == 0
        reward_N = torch.tensor(rewards)
        assert fit.take_out(reward_N, torch.tensor(tokens)) is reward_N


def test_missing_rewards_stay_missing_and_shapes_broadcast():
    fit = LengthFit(0.5, 10.0)
    taken_BM = fit.take_out(torch.tensor([[1.0, math.nan], [2.0, 3.0]]), torch.tensor([12, 8]))
    assert taken_BM[1].tolist() == [1.0, 4.0]
    assert taken_BM.isnan().tolist() == [[False, True], [False, False]]


def test_each_prompt_has_mean_nought_and_deviation_one():
    found_N = standardise_within(torch.tensor([1.0, 7.0, 3.0, 100.0, 5.0, 100.0]), torch.tensor([4, 9, 4, 2, 9, 2]))
    assert found_N.tolist() == pytest.approx([-1, 1, 1, 0, -1, 0])


def test_a_prompts_level_and_width_change_nothing():
    reward_N, prompt_N = torch.tensor([0.1, 0.7, 0.4, 2.0, -1.0]), torch.tensor([0, 0, 0, 1, 1])
    moved_N = torch.where(prompt_N == 0, 5 * reward_N + 3, reward_N)
    torch.testing.assert_close(standardise_within(moved_N, prompt_N), standardise_within(reward_N, prompt_N))
