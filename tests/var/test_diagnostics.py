"""What the diagnostics say of batches whose answer is known."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.metrics import CATALOGUE, WEIGHT_EDGES
from tests.var.batches import as_candidates, draw_batch
from worker.var.diagnostics import describe_weights, histogram
from worker.var.ranks import average_ranks, spearman_of_ranks
from worker.var.weights import Candidates, WeightChoices, compute_weights

torch.set_num_threads(1)


def by_hand() -> Candidates:
    """Two responses of prompt 0, one of prompt 1; e^(r/λ) π_ref: x0 (6, 3, 1), x1 (2, 2, 4); own rewards 3, 1, 2."""
    reward_BM = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    terms_BM = torch.tensor([[6.0, 3.0, 1.0], [2.0, 2.0, 4.0]], dtype=torch.float64)
    return Candidates(torch.tensor([0, 0, 1]), terms_BM.log() - reward_BM, torch.tensor([9, 4, 5]), reward_BM)


def test_a_batch_worked_by_hand() -> None:
    """Shares of Z: x0 (.6, .3, .1), x1 (.25, .25, .5); so w = (.6, .3, .5) without rescaling."""
    candidates = by_hand()
    choices = WeightChoices(logprob_norm="sum", mean_one=False)
    weight_M = compute_weights(candidates, choices)
    found = describe_weights(candidates, weight_M, choices, torch.tensor([1, -1, 0]))
    total, squares = 1.4, 0.36 + 0.09 + 0.25
    mean = total / 3
    rows = [[0.6, 0.3, 0.1], [0.25, 0.25, 0.5]]
    entropy = sum(-q * math.log(q) for row in rows for q in row) / 2 / math.log(3)
    expected = {
        "weight/mean": mean,
        "weight/std": math.sqrt(squares / 3 - mean**2),
        "weight/min": 0.3,
        "weight/max": 0.6,
        "weight/p10": 0.3 + 0.2 * 0.2,
        "weight/p50": 0.5,
        "weight/p90": 0.5 + 0.8 * 0.1,
        "weight/ess": total**2 / squares,
        "weight/ess_share": total**2 / squares / 3,
        "weight/entropy": entropy,
        "weight/share_above": 0.0,
        "weight/share_below": 0.0,
        "weight/spearman_length": 1.0,
        "weight/spearman_reward": 1.0,
        "weight/share_chosen": 0.6 / total,
        "weight/share_rejected": 0.3 / total,
        "weight/off_diagonal": (0.1 + 0.5) / 2,
        "weight/shortest_share": 0.0,
        "weight/largest_exponent": 3.0,
        "reward/mean": 2.0,
        "reward/std": math.sqrt(2 / 3),
        "reward/chosen": 3.0,
        "reward/rejected": 1.0,
        "reward/gap": 2.0,
    }
    assert found == pytest.approx(expected, rel=1e-12)


def test_every_weight_and_reward_metric_of_the_catalogue_is_emitted_and_no_other() -> None:
    candidates = by_hand()
    found = describe_weights(candidates, compute_weights(candidates, WeightChoices()), WeightChoices(), torch.tensor([1, -1, 0]))
    of_draws = {"weight/partition_error"}  # with Z(x) from draws alone: tests/var/test_draws.py
    assert set(found) == {key for key in CATALOGUE if key.startswith(("weight/", "reward/"))} - of_draws
    assert all(type(value) is float and math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("form", ["posterior", "ratio", "reward"])
@pytest.mark.parametrize("scope", ["batch", "prompt"])
@pytest.mark.parametrize("lambda_", [1e-4, 1.0, 1e4])
def test_every_number_is_finite_for_every_choice(form: str, scope: str, lambda_: float) -> None:
    choices = WeightChoices(weight_form=form, partition_scope=scope, lambda_=lambda_)
    for sizes in ((1,), (1, 1), (2, 1, 3), (4,)):
        candidates = as_candidates(draw_batch(1, sizes=sizes), torch.float32)
        found = describe_weights(candidates, compute_weights(candidates, choices), choices)
        assert all(math.isfinite(value) for value in found.values())
        assert set(found) <= set(CATALOGUE)


def test_missing_foreign_scores_leak_into_no_number() -> None:
    candidates = as_candidates(draw_batch(7))
    foreign_BM = candidates.own_M != torch.arange(3)[:, None]
    logprob_BM, reward_BM = (
        values_BM.masked_fill(foreign_BM, math.nan) for values_BM in (candidates.logprob_BM, candidates.reward_BM)
    )
    holed = replace(candidates, logprob_BM=logprob_BM, reward_BM=reward_BM)
    choices = WeightChoices(partition_scope="prompt")
    weight_M = compute_weights(candidates, choices)
    assert describe_weights(holed, weight_M, choices) == describe_weights(candidates, weight_M, choices)


def test_what_a_batch_does_not_have_is_left_out() -> None:
    candidates = by_hand()
    flat = replace(candidates, reward_BM=torch.zeros(2, 3))
    choices = WeightChoices(weight_form="reward")
    found = describe_weights(flat, compute_weights(flat, choices), choices, torch.tensor([0, 0, 0]))
    for key in ("weight/spearman_length", "weight/spearman_reward", "weight/share_chosen", "reward/chosen", "reward/gap"):
        assert key not in found


def test_rescaling_to_mean_one_changes_no_share_of_z() -> None:
    candidates = by_hand()
    sharp = WeightChoices(partition_scope="prompt", lambda_=1e-3)
    scaled, raw = (
        describe_weights(candidates, compute_weights(candidates, choices), choices)
        for choices in (sharp, replace(sharp, mean_one=False))
    )
    for key in ("weight/share_above", "weight/share_below", "weight/ess", "weight/entropy"):
        assert scaled[key] == pytest.approx(raw[key], rel=1e-12)
    assert raw["weight/share_above"] == pytest.approx(2 / 3)
    assert raw["weight/share_below"] == pytest.approx(1 / 3)


def test_statistics_of_weights_count_only_responses_in_the_loss() -> None:
    candidates = by_hand()
    kept = replace(candidates, enters_M=torch.tensor([True, False, True]))
    weight_M = compute_weights(kept, WeightChoices())
    found = describe_weights(kept, weight_M, WeightChoices(), torch.tensor([1, -1, 1]))
    assert found["weight/mean"] == pytest.approx(1.0)
    assert found["weight/min"] > 0
    assert found["weight/share_chosen"] == pytest.approx(1.0)
    assert found["weight/share_rejected"] == 0.0
    nobody = replace(candidates, enters_M=torch.zeros(3, dtype=torch.bool))
    empty = describe_weights(nobody, torch.zeros(3), WeightChoices(), torch.tensor([1, -1, 1]))
    assert "weight/mean" not in empty
    assert empty["reward/chosen"] == 2.5


def test_the_shortest_candidate_is_looked_for_among_those_of_z() -> None:
    """Prompt 0's candidates have 9 and 4 tokens, prompt 1 is alone; the 4-token response must win where it dominates."""
    candidates = by_hand()
    lift_BM = torch.tensor([[0.0, 50.0, 0.0], [0.0, 50.0, 0.0]])
    wins = replace(candidates, logprob_BM=candidates.logprob_BM + lift_BM)
    for scope, share in (("batch", 1.0), ("prompt", 0.5)):
        choices = WeightChoices(logprob_norm="sum", partition_scope=scope)
        assert describe_weights(wins, compute_weights(wins, choices), choices)["weight/shortest_share"] == share
    equal = replace(wins, num_tokens_M=torch.tensor([4, 4, 4]))
    assert describe_weights(equal, compute_weights(equal, choices), choices)["weight/shortest_share"] == 0.0


def test_summed_logprobs_make_weights_follow_length_and_means_the_reward() -> None:
    """The known behaviour: 8 prompts, lognormal lengths, 1.2 nats a token matched and 1.8 mismatched, rewards N(0,1)."""
    found = {}
    for norm in ("sum", "mean"):
        rhos = []
        for seed in range(20):
            chance = torch.Generator().manual_seed(seed)
            num_tokens_M = torch.exp(math.log(80) + 0.6 * torch.randn(8, generator=chance)).long().clamp(min=2)
            nats_BM = 1.8 - 0.6 * torch.eye(8) + 0.1 * torch.randn(8, 8, generator=chance)
            reward_BM = torch.randn(8, 8, generator=chance) - 3 * (1 - torch.eye(8))
            candidates = Candidates(torch.arange(8), -nats_BM * num_tokens_M, num_tokens_M, reward_BM)
            choices = WeightChoices(logprob_norm=norm, lambda_=1.0)
            numbers = describe_weights(candidates, compute_weights(candidates, choices), choices)
            rhos.append((numbers["weight/spearman_length"], numbers["weight/spearman_reward"]))
        found[norm] = [sum(column) / len(column) for column in zip(*rhos, strict=True)]
    assert found["sum"][0] < -0.7 < 0.4 > found["sum"][1]
    assert abs(found["mean"][0]) < 0.2 < 0.8 < found["mean"][1]


# Histogram and ranks


def test_the_histogram_counts_every_weight_once_with_both_ends_open() -> None:
    edges = [0.1, 1.0, 10.0]
    weight_M = torch.tensor([0.0, 0.05, 0.1, 0.5, 1.0, 9.99, 10.0, 1e30], dtype=torch.float64)
    assert histogram(weight_M, edges) == [2, 2, 2, 2]


def test_the_catalogues_edges_put_one_at_an_edge_and_span_ten_decades() -> None:
    assert len(WEIGHT_EDGES) == 21
    assert WEIGHT_EDGES[0] == 1e-8
    assert WEIGHT_EDGES[16] == 1.0
    assert WEIGHT_EDGES[-1] == 100.0
    counts = histogram(torch.tensor([1.0, 1.0, 0.999]), WEIGHT_EDGES)
    assert (counts[17], counts[16], sum(counts), len(counts)) == (2, 1, 3, 22)


def test_ties_share_the_mean_of_their_ranks() -> None:
    assert average_ranks(torch.tensor([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4.0, 1.0, 4.0, 2.0, 4.0]


def spearman(left: torch.Tensor, right: torch.Tensor) -> float | None:
    rho = float(spearman_of_ranks(average_ranks(left), average_ranks(right)))
    return None if math.isnan(rho) else rho


def test_spearman_worked_by_hand() -> None:
    """Ranks (1, 2.5, 2.5, 4) and (1, 2, 3, 4), both with mean 2.5: covariance 4.5, squares 4.5 and 5."""
    rho = spearman(torch.tensor([1.0, 5.0, 5.0, 9.0]), torch.tensor([1, 2, 3, 4]))
    assert rho == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0])) is None
    assert spearman(torch.tensor([1.0]), torch.tensor([1.0])) is None


@settings(deadline=None)  # a busy machine may hold up any single example
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=30))
def test_spearman_depends_on_order_alone_and_is_symmetric(points: list[tuple[int, int]]) -> None:
    left_N, right_N = (torch.tensor(column, dtype=torch.float64) for column in zip(*points, strict=True))
    rho = spearman(left_N, right_N)
    if rho is None:
        assert len(set(left_N.tolist())) == 1 or len(set(right_N.tolist())) == 1
    else:
        assert -1 - 1e-12 <= rho <= 1 + 1e-12
        assert spearman(right_N, left_N) == pytest.approx(rho)
        assert spearman(left_N**3, right_N.exp()) == pytest.approx(rho)
        assert spearman(-left_N, right_N) == pytest.approx(-rho)


def test_values_within_the_tolerance_are_ties_and_those_outside_the_loss_are_not_ranked() -> None:
    values_N = torch.tensor([1.0, 1.0 + 1e-7, 0.5, 2.0, 1.0 + 1e-3])
    assert average_ranks(values_N).tolist() == [2.0, 3.0, 1.0, 5.0, 4.0]
    assert average_ranks(values_N, tolerance=1e-6).tolist() == [2.5, 2.5, 1.0, 5.0, 4.0]
    counted_N = torch.tensor([True, True, True, False, True])
    assert average_ranks(values_N, counted_N, tolerance=1e-6)[counted_N].tolist() == [2.5, 2.5, 1.0, 4.0]


def test_weights_that_float32_cannot_tell_apart_have_no_correlation() -> None:
    """Every response has its own Z(x) to itself: what differs between the weights is rounding."""
    logprob_BM = torch.where(torch.eye(6) > 0, 0.0, -18.0 - torch.rand(6, 6, generator=torch.Generator().manual_seed(1)))
    candidates = Candidates(torch.arange(6), logprob_BM, torch.arange(1, 7), torch.randn(6, 6) * 1e-3)
    choices = WeightChoices(logprob_norm="sum")
    assert "weight/spearman_reward" not in describe_weights(candidates, compute_weights(candidates, choices), choices)
