"""The weights: by hand, against the slow reference, in their limits, under their invariances, at the ends of the number range."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.recipe import PRESETS, WeightSettings
from tests.var import plain
from tests.var.batches import as_candidates, draw_batch
from worker.var.weights import (
    Candidates,
    TargetUnreachable,
    WeightChoices,
    compute_weights,
    effective_sample_size,
    find_lambda,
    weigh_batch,
)

SETTINGS = {
    "weight_form": ("posterior", "ratio", "reward"),
    "partition_scope": ("batch", "prompt"),
    "logprob_norm": ("sum", "mean"),
    "cross_reward": ("score", "reuse"),
    "reward_norm": ("none", "zscore"),
    "mean_one": (False, True),
}
EVERY_CHOICE = [dict(zip(SETTINGS, values, strict=True)) for values in itertools.product(*SETTINGS.values())]
FORMS = [WeightChoices(weight_form=f, partition_scope=s) for f in SETTINGS["weight_form"] for s in SETTINGS["partition_scope"]]
SEEDS = st.integers(0, 2**32 - 1)

torch.set_num_threads(1)


def pair(rewards: list[float], logprobs: list[float], tokens: list[int] | None = None) -> Candidates:
    """One prompt with its responses."""
    num = len(rewards)
    return Candidates(
        torch.zeros(num, dtype=torch.int64),
        torch.tensor([logprobs], dtype=torch.float64),
        torch.tensor(tokens or [1] * num),
        torch.tensor([rewards], dtype=torch.float64),
    )


def test_two_prompts_worked_by_hand() -> None:
    """λ = 2. π_ref(y|x): x0 (.5, .1), x1 (.2, .4). e^(r/λ): x0 (2, 4), x1 (1, 3).

    posterior   Z(x0) = .5·2 + .1·4 = 1.4     w0 = 1/1.4      Z(x1) = .2·1 + .4·3 = 1.4      w1 = 1.2/1.4
    ratio       ω: x0 (1, .1/.4), x1 (.2/.5, 1)
                Ẑ(x0) = (2 + .25·4) / 1.25 = 2.4   w0 = 2/2.4      Ẑ(x1) = (.4·1 + 3) / 1.4   w1 = 3·1.4/3.4
    """
    candidates = Candidates(
        torch.tensor([0, 1]),
        torch.tensor([[0.5, 0.1], [0.2, 0.4]], dtype=torch.float64).log(),
        torch.tensor([3, 3]),
        2 * torch.tensor([[2, 4], [1, 3]], dtype=torch.float64).log(),
    )
    expected = {"posterior": [1 / 1.4, 1.2 / 1.4], "ratio": [2 / 2.4, 3 * 1.4 / 3.4], "reward": [2.0, 3.0]}
    for form, weights in expected.items():
        choices = WeightChoices(weight_form=form, logprob_norm="sum", mean_one=False, lambda_=2.0)
        assert compute_weights(candidates, choices).tolist() == pytest.approx(weights, rel=1e-12)
        mean = sum(weights) / 2
        scaled = compute_weights(candidates, replace(choices, mean_one=True))
        assert scaled.tolist() == pytest.approx([weight / mean for weight in weights], rel=1e-12)


def test_reused_rewards_and_token_means_worked_by_hand() -> None:
    """Token means ln(½) and ln(¼) for every prompt; rewards ln 2 and ln 8 of the responses' own prompts; λ = 1.

    Z = ½·2 + ¼·8 = 3, so w = (1/3, 2/3), although the cross-scored rewards and the sums say otherwise.
    """
    candidates = Candidates(
        torch.tensor([0, 1]),
        torch.tensor([[3 * math.log(0.5), 2 * math.log(0.25)]] * 2, dtype=torch.float64),
        torch.tensor([3, 2]),
        torch.tensor([[math.log(2), 99.0], [-99.0, math.log(8)]], dtype=torch.float64),
    )
    choices = WeightChoices(logprob_norm="mean", cross_reward="reuse", mean_one=False)
    assert compute_weights(candidates, choices).tolist() == pytest.approx([1 / 3, 2 / 3], rel=1e-12)


@pytest.mark.parametrize("choice", EVERY_CHOICE, ids=lambda choice: "-".join(map(str, choice.values())))
def test_every_choice_equals_the_slow_reference(choice: dict[str, object]) -> None:
    for seed, lambda_ in ((1, 0.1), (2, 1.0), (3, 7.0)):
        batch = draw_batch(seed)
        choices = WeightChoices(**choice, lambda_=lambda_)
        expected = plain.weights(batch, **choice, lambda_=lambda_, reward_mean=0.3, reward_std=1.7)
        found = compute_weights(as_candidates(batch), choices, reward_mean=0.3, reward_std=1.7)
        assert found.dtype == torch.float64
        assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-300)
        narrow = compute_weights(as_candidates(batch, torch.float32), choices, reward_mean=0.3, reward_std=1.7)
        assert narrow.dtype == torch.float32
        assert narrow.tolist() == pytest.approx(expected, rel=2e-4, abs=1e-37)


def test_every_preset_of_the_recipe_is_a_choice_the_weights_know() -> None:
    for preset in PRESETS:
        recipe = WeightSettings.model_validate({"preset": preset, "lambda": 0.5})
        chosen = {name: getattr(recipe, name) for name in SETTINGS}
        choices = WeightChoices(**{**chosen, "mean_one": recipe.mean_one == "batch"}, lambda_=0.5)
        batch = as_candidates(draw_batch(0))
        draws = {"draw_reward_BK": torch.zeros(len(batch.reward_BM), 2), "draw_M": torch.full_like(batch.own_M, -1)}
        assert compute_weights(replace(batch, **draws), choices).isfinite().all()


def test_weights_carry_no_gradient() -> None:
    batch = as_candidates(draw_batch(0))
    batch = replace(batch, logprob_BM=batch.logprob_BM.requires_grad_(), reward_BM=batch.reward_BM.requires_grad_())
    for choices in FORMS:
        weight_M = compute_weights(batch, choices)
        assert not weight_M.requires_grad
        assert weight_M.grad_fn is None


# Limits


def test_equal_rewards_and_equal_logprobs_give_uniform_weights() -> None:
    num = 6
    candidates = Candidates(torch.arange(num), torch.full((num, num), -3.0), torch.full((num,), 5), torch.full((num, num), 0.7))
    weight_M = compute_weights(candidates, WeightChoices(mean_one=False))
    assert weight_M.tolist() == pytest.approx([1 / num] * num, rel=1e-6)


def test_a_large_lambda_leaves_the_softmax_of_the_reference() -> None:
    batch = as_candidates(draw_batch(4))
    weight_M = compute_weights(batch, WeightChoices(logprob_norm="sum", mean_one=False, lambda_=1e12))
    reference_M = torch.softmax(batch.logprob_BM, dim=1).gather(0, batch.own_M[None])[0]
    assert torch.allclose(weight_M, reference_M, rtol=1e-9)


def test_a_small_lambda_leaves_the_best_response_of_a_prompt() -> None:
    for form in ("posterior", "ratio"):
        choices = WeightChoices(weight_form=form, partition_scope="prompt", lambda_=1e-3)
        weight_M = compute_weights(pair([0.1, 0.4, 0.2], [-5.0, -9.0, -1.0]), choices)
        assert weight_M.tolist() == pytest.approx([0.0, 3.0, 0.0], abs=1e-80)


@given(st.floats(-20, 20), st.floats(0.05, 20))
def test_a_pair_within_its_prompt_shares_the_weight_by_the_sigmoid_of_its_reward_gap(gap: float, lambda_: float) -> None:
    """w/Σw = σ(Δr/λ); as an estimate of π*/π_ref the pair's mean weight is 1, so w itself is twice that."""
    for mean_one in (False, True):
        choices = WeightChoices(weight_form="ratio", partition_scope="prompt", mean_one=mean_one, lambda_=lambda_)
        weight_M = compute_weights(pair([gap, 0.0], [-4.0, -90.0]), choices)
        sigmoid = 1 / (1 + math.exp(-gap / lambda_)) if gap / lambda_ > -700 else 0.0
        assert float(weight_M[0] / weight_M.sum()) == pytest.approx(sigmoid, rel=1e-9, abs=1e-300)
        assert float(weight_M.sum()) == pytest.approx(2.0, rel=1e-12)


def test_without_spread_zscored_rewards_stay_finite() -> None:
    choices = WeightChoices(reward_norm="zscore", partition_scope="prompt", mean_one=False)
    weight_M = compute_weights(pair([2.0, 2.0], [-1.0, -1.0]), choices, reward_mean=2.0, reward_std=0.0)
    assert weight_M.tolist() == [0.5, 0.5]


# Invariances


@given(SEEDS, st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_adding_a_constant_to_a_rows_rewards_changes_no_normalised_weight(seed: int, constant: float) -> None:
    batch = as_candidates(draw_batch(seed))
    moved_BM = batch.reward_BM.clone()
    moved_BM[1] += constant
    for choices in FORMS[:4]:
        weight_M = compute_weights(batch, replace(choices, mean_one=False, lambda_=0.7))
        moved_M = compute_weights(replace(batch, reward_BM=moved_BM), replace(choices, mean_one=False, lambda_=0.7))
        assert torch.allclose(weight_M, moved_M, rtol=1e-9, atol=1e-300)


@given(SEEDS, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_permuting_the_responses_permutes_the_weights(seed: int, chance: object) -> None:
    batch = as_candidates(draw_batch(seed))
    order = list(range(len(batch.own_M)))
    chance.shuffle(order)
    shuffled = Candidates(batch.own_M[order], batch.logprob_BM[:, order], batch.num_tokens_M[order], batch.reward_BM[:, order])
    for choices in FORMS:
        assert torch.allclose(compute_weights(batch, choices)[order], compute_weights(shuffled, choices), rtol=1e-12)


@given(SEEDS, st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_d_copies_of_a_response_share_the_weight_of_one(seed: int, d: int) -> None:
    """Copies split what one had when nothing else stands in Z(x): their weight can't pass 1/d."""
    batch = draw_batch(seed, sizes=(1, 1, 1))
    copied = [j for j in range(3) for _ in range(d if j == 0 else 1)]
    many = plain.Batch(
        [batch.own[j] for j in copied], [[row[j] for j in copied] for row in batch.logprob],
        [batch.tokens[j] for j in copied], [[row[j] for j in copied] for row in batch.reward],
    )  # fmt: skip
    choices = WeightChoices(mean_one=False)
    copies_M = compute_weights(as_candidates(many), choices)[:d]
    assert (copies_M <= 1 / d + 1e-12).all()
    alone = compute_weights(as_candidates(batch), replace(choices, partition_scope="prompt"))[0]
    together_M = compute_weights(as_candidates(many), replace(choices, partition_scope="prompt"))[:d]
    assert torch.allclose(together_M, alone / d, rtol=1e-12)


@given(SEEDS, st.floats(-300, 300))
@settings(max_examples=30, deadline=None)
def test_a_prompts_own_scale_of_the_reference_cancels(seed: int, shift: float) -> None:
    """Padding, templates and the like that add a constant to all log π_ref(·|x) of one prompt leave its posterior as it is."""
    batch = as_candidates(draw_batch(seed))
    moved_BM = batch.logprob_BM.clone()
    moved_BM[0] += shift
    choices = WeightChoices(logprob_norm="sum", mean_one=False)
    weight_M, moved_M = compute_weights(batch, choices), compute_weights(replace(batch, logprob_BM=moved_BM), choices)
    assert torch.allclose(weight_M, moved_M, rtol=1e-9, atol=1e-300)


def test_mean_one_makes_the_mean_one() -> None:
    for choices in FORMS:
        assert float(compute_weights(as_candidates(draw_batch(9)), choices).mean()) == pytest.approx(1.0, rel=1e-12)


# The ends of the number range


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("choice", EVERY_CHOICE[::2] + EVERY_CHOICE[1::2], ids=str)
def test_finite_and_never_negative_at_r_over_lambda_of_ten_thousand(choice: dict[str, object], dtype: torch.dtype) -> None:
    batch = as_candidates(draw_batch(5), dtype)
    for reward_BM in (torch.sign(batch.reward_BM), torch.ones_like(batch.reward_BM), -torch.ones_like(batch.reward_BM)):
        weight_M = compute_weights(replace(batch, reward_BM=reward_BM), WeightChoices(**choice, lambda_=1e-4))
        assert weight_M.isfinite().all()
        assert (weight_M >= 0).all()


def test_float32_keeps_its_digits_at_rewards_far_from_zero() -> None:
    """(r + 10 000 λ)/λ has three decimals left in float32; taking the row's maximum off first keeps the rest."""
    for form in ("posterior", "ratio"):
        choices = WeightChoices(weight_form=form, partition_scope="prompt", mean_one=False, lambda_=1 / 1024)
        near, far = ([0.5, 0.5 + gap] for gap in (0.0, 1 / 2048))
        for rewards in (near, far):
            batch = pair(rewards, [-2.0, -2.0])
            shifted = pair([reward + 16 for reward in rewards], [-2.0, -2.0])
            narrow = replace(shifted, logprob_BM=shifted.logprob_BM.float(), reward_BM=shifted.reward_BM.float())
            assert compute_weights(narrow, choices).tolist() == pytest.approx(compute_weights(batch, choices).tolist(), rel=1e-6)


def test_float32_keeps_its_digits_at_logprobs_far_from_zero() -> None:
    """A long response has log π_ref near −30 000, where float32 steps by 0.002: far too coarse to add r/λ to."""
    batch = pair([0.1003, 0.2007], [-30_000.0, -30_000.5])
    narrow = replace(batch, logprob_BM=batch.logprob_BM.float(), reward_BM=batch.reward_BM.float())
    choices = WeightChoices(logprob_norm="sum", mean_one=False)
    assert compute_weights(narrow, choices).tolist() == pytest.approx(compute_weights(batch, choices).tolist(), rel=1e-6)


def test_an_empty_response_is_weighed_without_dividing_by_zero() -> None:
    batch = pair([0.0, 0.0], [0.0, -2.0], tokens=[0, 2])
    weight_M = compute_weights(batch, WeightChoices(logprob_norm="mean", mean_one=False))
    assert weight_M.tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e)])


def test_half_precision_scores_are_weighed_in_float32() -> None:
    batch = as_candidates(draw_batch(6))
    half = replace(batch, logprob_BM=batch.logprob_BM.bfloat16(), reward_BM=batch.reward_BM.bfloat16())
    wide = replace(half, logprob_BM=half.logprob_BM.float(), reward_BM=half.reward_BM.float())
    for choices in FORMS:
        found = compute_weights(half, choices)
        assert found.dtype == torch.float32
        assert torch.equal(found, compute_weights(wide, choices))


# What isn't needed is never read


def test_foreign_entries_may_be_missing_within_a_prompt() -> None:
    batch = as_candidates(draw_batch(7))
    foreign_BM = batch.own_M != torch.arange(3)[:, None]
    logprob_BM, reward_BM = (values_BM.masked_fill(foreign_BM, math.nan) for values_BM in (batch.logprob_BM, batch.reward_BM))
    holed = replace(batch, logprob_BM=logprob_BM, reward_BM=reward_BM)
    for choices in FORMS:
        choices = replace(choices, partition_scope="prompt")
        assert torch.equal(compute_weights(holed, choices), compute_weights(batch, choices))
        assert weigh_batch(holed, choices).share_SBC.isfinite().all()


def test_foreign_rewards_may_be_missing_when_reused() -> None:
    batch = as_candidates(draw_batch(8))
    foreign_BM = batch.own_M != torch.arange(3)[:, None]
    holed = replace(batch, reward_BM=batch.reward_BM.masked_fill(foreign_BM, math.nan))
    for choices in FORMS:
        choices = replace(choices, cross_reward="reuse")
        assert torch.equal(compute_weights(holed, choices), compute_weights(batch, choices))


def test_the_control_needs_no_foreign_scores_at_all() -> None:
    batch = as_candidates(draw_batch(8))
    foreign_BM = batch.own_M != torch.arange(3)[:, None]
    holed = replace(batch, reward_BM=batch.reward_BM.masked_fill(foreign_BM, math.nan))
    choices = WeightChoices(weight_form="reward", cross_reward="score", partition_scope="batch")
    assert torch.equal(compute_weights(holed, choices), compute_weights(batch, choices))


def test_the_reference_may_be_missing_where_it_cancels() -> None:
    batch = as_candidates(draw_batch(8))
    without = replace(batch, logprob_BM=torch.full_like(batch.logprob_BM, math.nan))
    for form, scope in (("reward", "batch"), ("reward", "prompt"), ("ratio", "prompt")):
        choices = WeightChoices(weight_form=form, partition_scope=scope)
        assert torch.equal(compute_weights(without, choices), compute_weights(batch, choices))


@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf])
def test_a_missing_entry_that_is_needed_is_named(hole: float) -> None:
    batch = as_candidates(draw_batch(8))
    batch.reward_BM[1, 2] = hole
    with pytest.raises(ValueError, match=r"reward r\(x, y\) of response 2 with prompt 1 .* score that pair"):
        compute_weights(batch, WeightChoices())
    batch = as_candidates(draw_batch(8))
    batch.logprob_BM[0, 4] = hole
    with pytest.raises(ValueError, match=r"log π_ref\(y\|x\) of response 4 with prompt 0"):
        compute_weights(batch, WeightChoices())


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        compute_weights(as_candidates(draw_batch(8)), WeightChoices(lambda_=0.0))


# Responses that stay out of the loss


def test_responses_outside_the_loss_weigh_nothing_but_stand_in_z() -> None:
    batch = as_candidates(draw_batch(3))
    enters_M = torch.tensor([True, False, True, True, False, True])
    kept = replace(batch, enters_M=enters_M)
    for choices in FORMS:
        whole_M = compute_weights(batch, replace(choices, mean_one=False))
        assert torch.equal(compute_weights(kept, replace(choices, mean_one=False)), whole_M * enters_M)
        scaled_M = compute_weights(kept, choices)
        assert float(scaled_M[enters_M].mean()) == pytest.approx(1.0, rel=1e-12)
        assert torch.allclose(scaled_M, whole_M * enters_M / whole_M[enters_M].mean(), rtol=1e-12)


def test_a_batch_without_any_response_in_the_loss_weighs_nothing() -> None:
    batch = replace(as_candidates(draw_batch(3)), enters_M=torch.zeros(6, dtype=torch.bool))
    for choices in FORMS:
        assert compute_weights(batch, choices).tolist() == [0.0] * 6


# Effective sample size and the search for λ


def test_the_effective_sample_size_counts_equal_weights() -> None:
    assert effective_sample_size(torch.tensor([3.0, 3.0, 0.0, 3.0])) == pytest.approx(3.0)
    assert effective_sample_size(torch.tensor([1.0, 2.0])) == pytest.approx(9 / 5)
    assert effective_sample_size(torch.tensor([1e-30, 1e-30])) == pytest.approx(2.0)
    assert effective_sample_size(torch.tensor([1e34, 1e34])) == pytest.approx(2.0)
    assert effective_sample_size(torch.tensor([1e-200, 1e-200], dtype=torch.float64)) == pytest.approx(2.0)
    assert effective_sample_size(torch.zeros(3)) == 0.0


@pytest.mark.parametrize("form", ["posterior", "ratio", "reward"])
@pytest.mark.parametrize("target", [0.35, 0.6, 0.8])
def test_the_found_lambda_has_the_wanted_effective_sample_size(form: str, target: float) -> None:
    batches = [as_candidates(draw_batch(seed, sizes=(2,) * 8), torch.float32) for seed in range(5)]
    choices = WeightChoices(weight_form=form, mean_one=False)
    lambda_ = find_lambda(batches, choices, target, tolerance=1e-4)
    shares = [effective_sample_size(compute_weights(b, replace(choices, lambda_=lambda_))) / 16 for b in batches]
    assert sum(shares) / 5 == pytest.approx(target, abs=2e-4)


def test_the_found_lambda_scales_with_the_rewards() -> None:
    batches = [as_candidates(draw_batch(seed, sizes=(2,) * 4)) for seed in range(3)]
    wide = [replace(batch, reward_BM=batch.reward_BM * 10) for batch in batches]
    choices = WeightChoices(weight_form="reward")
    found, wider = find_lambda(batches, choices, 0.5, tolerance=1e-6), find_lambda(wide, choices, 0.5, tolerance=1e-6)
    assert wider == pytest.approx(10 * found, rel=1e-3)


def test_the_found_lambda_counts_only_responses_in_the_loss() -> None:
    batch = as_candidates(draw_batch(1, sizes=(2,) * 8))
    enters_M = torch.arange(16) % 2 == 0
    kept = [replace(batch, enters_M=enters_M), replace(batch, enters_M=torch.zeros(16, dtype=torch.bool))]
    choices = WeightChoices(weight_form="reward")
    weight_M = compute_weights(kept[0], replace(choices, lambda_=find_lambda(kept, choices, 0.5)))
    assert effective_sample_size(weight_M) == pytest.approx(4.0, abs=0.01)


def test_a_target_out_of_reach_says_what_can_be_had() -> None:
    flat = replace(as_candidates(draw_batch(2)), reward_BM=torch.zeros(3, 6))
    with pytest.raises(TargetUnreachable, match=r"target_ess 0\.3 can't be reached: .* between 1 and 1"):
        find_lambda([flat], WeightChoices(weight_form="reward"), 0.3)
