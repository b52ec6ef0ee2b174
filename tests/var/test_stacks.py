"""Many batches at once: the same numbers as one by one, however ragged they are, for all 96 choices of the weights."""

import itertools
import math
from bisect import bisect_right
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.var.batches import as_candidates, draw_batch
from worker.var.candidates import Candidates, StackedCandidates, stack
from worker.var.certificate import droppable, logprob_floors
from worker.var.describe import describe_weighed
from worker.var.diagnostics import describe_weights, histogram
from worker.var.lambdas import TargetUnreachable, find_lambda, find_stacked_lambda, stack_alike
from worker.var.ranks import average_ranks
from worker.var.stacks import Weighed, effective_sample_sizes, weigh
from worker.var.terms import make_terms
from worker.var.weights import WeightChoices, compute_weights

torch.set_num_threads(1)

SETTINGS = {
    "weight_form": ("posterior", "ratio", "reward"),
    "partition_scope": ("batch", "prompt"),
    "logprob_norm": ("sum", "mean"),
    "cross_reward": ("score", "reuse"),
    "reward_norm": ("none", "zscore"),
    "mean_one": (False, True),
}
EVERY_CHOICE = [WeightChoices(**dict(zip(SETTINGS, values, strict=True))) for values in itertools.product(*SETTINGS.values())]
SHAPES = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=5), min_size=1, max_size=6)
SPREAD = {"reward_mean": 0.3, "reward_std": 1.7}


def draw_ragged(shapes: list[list[int]], seed: int, *, some_enter: bool, ties: bool = False) -> list[Candidates]:
    batches = [as_candidates(draw_batch(seed + k, sizes=tuple(sizes))) for k, sizes in enumerate(shapes)]
    if ties:
        batches = [replace(b, num_tokens_M=b.num_tokens_M // 15 + 1, reward_BM=b.reward_BM.round()) for b in batches]
    chance = torch.Generator().manual_seed(seed)
    return [replace(b, enters_M=torch.rand(len(b.own_M), generator=chance) < 0.6) if some_enter else b for b in batches]


def weigh_stack(
    stacked: StackedCandidates, choices: WeightChoices, *, reward_mean: float = 0.0, reward_std: float = 1.0
) -> Weighed:
    return weigh(make_terms(stacked, choices, reward_mean, reward_std), choices.lambda_)


def pad(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True)


@pytest.mark.parametrize("choices", EVERY_CHOICE, ids=lambda c: "-".join(str(getattr(c, name)) for name in SETTINGS))
@pytest.mark.parametrize(("ties", "some_enter"), [(False, False), (True, True)], ids=["plain", "ties"])
def test_a_stack_of_ragged_batches_has_the_numbers_of_each(choices: WeightChoices, ties: bool, some_enter: bool) -> None:
    batches = draw_ragged([[2, 1, 3], [1], [2, 2, 2, 2], [4, 1], [3]], 5, some_enter=some_enter, ties=ties)
    compare_with_each(batches, replace(choices, lambda_=0.4))


@pytest.mark.long
@given(SHAPES, st.integers(0, 10_000), st.sampled_from(EVERY_CHOICE), st.floats(1e-3, 1e3), st.booleans(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_stack_has_the_numbers_of_each(
    shapes: list[list[int]], seed: int, choices: WeightChoices, lambda_: float, ties: bool, some_enter: bool
) -> None:
    compare_with_each(draw_ragged(shapes, seed, some_enter=some_enter, ties=ties), replace(choices, lambda_=lambda_))


def compare_with_each(batches: list[Candidates], choices: WeightChoices) -> None:
    preferences = [torch.arange(len(b.own_M)) % 3 - 1 for b in batches]
    weighed = weigh_stack(stack(batches), choices, **SPREAD)
    weight_SM = weighed.weight_SM
    found = describe_weighed(weighed, weight_SM, pad(preferences))
    for s, (batch, preference_M) in enumerate(zip(batches, preferences, strict=True)):
        weight_M = compute_weights(batch, choices, **SPREAD)
        num = len(weight_M)
        assert weight_SM[s, :num].tolist() == pytest.approx(weight_M.tolist(), rel=1e-9, abs=1e-300)
        assert not weight_SM[s, num:].any()
        expected = describe_weights(batch, weight_M, choices, preference_M, **SPREAD)
        numbers = {key: float(value_S[s]) for key, value_S in found.items() if not value_S[s].isnan()}
        assert numbers == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_batch_without_any_response_in_the_loss_weighs_nothing_beside_others() -> None:
    batches = draw_ragged([[2, 2], [1, 2]], 1, some_enter=False)
    nobody = replace(batches[1], enters_M=torch.zeros(3, dtype=torch.bool))
    for choices in EVERY_CHOICE[::7]:
        weight_SM = weigh_stack(stack([batches[0], nobody]), choices).weight_SM
        assert weight_SM[0].all()
        assert weight_SM[1].tolist() == [0.0] * 4
    assert effective_sample_sizes(weight_SM)[1] == 0


# Rows of own responses alone, and one row for all prompts


def only_own(batch: Candidates) -> StackedCandidates:
    """A batch whose responses follow their prompts, as rows that hold own responses alone."""
    counts = batch.own_M.bincount().tolist()
    width, firsts = max(counts), [sum(counts[:i]) for i in range(len(counts))]
    candidate_BC = torch.tensor([[f + c if c < n else -1 for c in range(width)] for f, n in zip(firsts, counts, strict=True)])
    place_BC = candidate_BC.clamp(min=0)
    logprob_BC, reward_BC = (torch.take_along_dim(values, place_BC, dim=1) for values in (batch.logprob_BM, batch.reward_BM))
    return StackedCandidates(
        batch.own_M[None], logprob_BC[None], batch.num_tokens_M[None], reward_BC[None], candidate_SBC=candidate_BC[None]
    )


def in_order(batch: Candidates) -> Candidates:
    return replace(batch, own_M=batch.own_M.sort().values)


@pytest.mark.parametrize("choices", [c for c in EVERY_CHOICE if c.partition_scope == "prompt"], ids=str)
def test_rows_of_own_responses_alone_give_the_same_numbers_within_a_prompt(choices: WeightChoices) -> None:
    batch = in_order(as_candidates(draw_batch(4, sizes=(3, 1, 2, 2))))
    weight_M = compute_weights(batch, choices, **SPREAD)
    weighed = weigh_stack(only_own(batch), choices, **SPREAD)
    assert weighed.weight_SM[0].tolist() == pytest.approx(weight_M.tolist(), rel=1e-9)
    found = describe_weighed(weighed, weighed.weight_SM)
    expected = describe_weights(batch, weight_M, choices, **SPREAD)
    numbers = {key: float(value_S[0]) for key, value_S in found.items() if not value_S[0].isnan()}
    assert numbers == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("choices", [c for c in EVERY_CHOICE if c.weight_form == "reward"], ids=str)
def test_one_row_stands_for_all_prompts_of_the_control(choices: WeightChoices) -> None:
    batch = as_candidates(draw_batch(4, sizes=(3, 1, 2, 2)))
    own_reward_M = batch.reward_BM.gather(0, batch.own_M[None])
    row = StackedCandidates(
        torch.zeros_like(batch.own_M)[None], torch.zeros_like(own_reward_M)[None], batch.num_tokens_M[None],
        own_reward_M[None], num_prompts_S=torch.tensor([4]),
    )  # fmt: skip
    choices = replace(choices, partition_scope="batch")
    weight_M = compute_weights(batch, choices, **SPREAD)
    weighed = weigh_stack(row, choices, **SPREAD)
    assert weighed.weight_SM[0].tolist() == pytest.approx(weight_M.tolist(), rel=1e-9)
    expected = describe_weights(batch, weight_M, choices, **SPREAD)
    numbers = {
        key: float(value_S[0]) for key, value_S in describe_weighed(weighed, weighed.weight_SM).items() if not value_S[0].isnan()
    }
    assert numbers == pytest.approx(expected, rel=1e-6, abs=1e-9)


# Pairs that were dropped with a certificate


@pytest.mark.parametrize("cross_reward", ["score", "reuse"])
def test_dropped_pairs_change_no_weight_and_their_rewards_are_not_read(cross_reward: str) -> None:
    choices = WeightChoices(logprob_norm="sum", mean_one=False, cross_reward=cross_reward, lambda_=0.5)
    fulls, kept, num_dropped = [], [], 0
    for seed in range(6):
        batch = as_candidates(draw_batch(seed, sizes=(2, 1, 2)))
        every_M = torch.arange(5)
        floor_BM = logprob_floors(
            batch.own_M, batch.logprob_BM[batch.own_M, every_M], batch.reward_BM[batch.own_M, every_M], 0.5,
            float(batch.reward_BM.max()),
        )  # fmt: skip
        dropped_BM = droppable(batch.logprob_BM, floor_BM)
        num_dropped += int(dropped_BM.sum())
        fulls.append(batch)
        logprob_BM = batch.logprob_BM.masked_fill(dropped_BM, -math.inf)
        kept.append(replace(batch, logprob_BM=logprob_BM, reward_BM=batch.reward_BM.masked_fill(dropped_BM, math.nan)))
    assert num_dropped > 10
    for lambda_ in (0.5, 1.0, 100.0):
        served = replace(choices, lambda_=lambda_)
        assert torch.allclose(weigh_stack(stack(kept), served).weight_SM, weigh_stack(stack(fulls), served).weight_SM, atol=1e-9)
        for full, part in zip(fulls, kept, strict=True):
            weight_M = compute_weights(part, served)
            assert (weight_M - compute_weights(full, served)).abs().max() < 1e-9
            expected = describe_weights(full, weight_M, served)
            found = describe_weights(part, weight_M, served)
            del expected["weight/largest_exponent"], found["weight/largest_exponent"]  # of the rewards that were asked for
            assert found == pytest.approx(expected, abs=1e-6)


def test_a_dropped_pair_is_missing_where_the_certificate_does_not_hold() -> None:
    batch = as_candidates(draw_batch(3, sizes=(1, 1)))
    batch.logprob_BM[0, batch.own_M.tolist().index(1)] = -math.inf
    assert compute_weights(batch, WeightChoices(logprob_norm="sum")).isfinite().all()
    for choices in (WeightChoices(), WeightChoices(logprob_norm="sum", weight_form="ratio")):
        with pytest.raises(ValueError, match="score that pair"):
            compute_weights(batch, choices)


def test_an_own_pair_is_never_dropped() -> None:
    batch = as_candidates(draw_batch(3, sizes=(1, 1)))
    batch.logprob_BM[0, batch.own_M.tolist().index(0)] = -math.inf
    with pytest.raises(ValueError, match="score that pair"):
        compute_weights(batch, WeightChoices(logprob_norm="sum"))


# The search for λ, ranks and histogram


@pytest.mark.parametrize("form", ["posterior", "ratio", "reward"])
def test_the_found_lambda_is_that_of_the_single_batches(form: str) -> None:
    batches = draw_ragged([[2, 2, 2], [2, 2], [1, 2, 3], [2, 2, 2]], 3, some_enter=False)
    choices = WeightChoices(weight_form=form)
    found = find_lambda(batches, choices, 0.6, tolerance=1e-5)
    chosen = replace(choices, lambda_=found)
    sizes = [float(effective_sample_sizes(compute_weights(b, chosen)[None])[0]) / len(b.own_M) for b in batches]
    assert sum(sizes) / len(sizes) == pytest.approx(0.6, abs=1e-4)
    assert find_stacked_lambda([stack(batches)], choices, 0.6, tolerance=1e-5) == pytest.approx(found, rel=1e-6)


def test_no_lambda_below_the_smallest_that_is_served_is_found() -> None:
    batches = stack_alike(draw_ragged([[2, 2, 2]] * 3, 3, some_enter=False))
    choices = WeightChoices(weight_form="reward")
    found = find_stacked_lambda(batches, choices, 0.5)
    with pytest.raises(TargetUnreachable, match="effective sample size lies between"):
        find_stacked_lambda(batches, choices, 0.5, smallest_lambda=found * 2)


def test_batches_of_unlike_sizes_are_stacked_apart() -> None:
    batches = draw_ragged([[2] * 8, [1], [2] * 8, [1, 1]], 3, some_enter=False)
    assert [part.reward_SBC.shape for part in stack_alike(batches)] == [(2, 8, 16), (2, 2, 2)]


@given(st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=8), min_size=1, max_size=5))
@settings(deadline=None)
def test_ranks_of_many_series_are_those_of_each_and_count_smaller_and_equal_values(series: list[list[int]]) -> None:
    values_SN, counted_SN = (pad([torch.tensor(v) for v in many]) for many in (series, [[1] * len(some) for some in series]))
    ranks_SN = average_ranks(values_SN, counted_SN.bool())
    for some, ranks_N in zip(series, ranks_SN.tolist(), strict=True):
        assert ranks_N[: len(some)] == [sum(b < a for b in some) + (some.count(a) + 1) / 2 for a in some]


@given(st.lists(st.floats(1e-12, 1e4), max_size=20), st.booleans())
@settings(deadline=None)
def test_the_histogram_is_pythons_bisection(weights: list[float], narrow: bool) -> None:
    edges = [10.0 ** (k / 2 - 8) for k in range(21)]
    weights += [edges[3], edges[20], 0.0]
    weight_N = torch.tensor(weights, dtype=torch.float32 if narrow else torch.float64)
    expected = [0] * 22
    for weight in weight_N.tolist():
        expected[bisect_right(edges, weight)] += 1
    assert histogram(weight_N, edges) == expected
