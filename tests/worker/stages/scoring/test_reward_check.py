import pytest
import torch

from app.domain.errors import RecipeInvalid
from app.domain.findings import wilson_interval
from tests.worker.workshop import make_recipe
from worker.stages.scoring.cached import gather_own, lay_out
from worker.stages.scoring.index import keep_index, read_index
from worker.stages.scoring.pairs import read_rewards
from worker.stages.scoring.reward_check import check_index, check_rewards, pair_up
from worker.stages.scoring.stage import refuse_inverted


def check(pairs: list[tuple[float, float]], lengths: list[tuple[int, int]] | None = None):
    """Of (chosen, rejected) rewards and lengths."""
    rewards = torch.tensor(pairs).flatten()
    num_tokens = torch.tensor(lengths or [(3, 3)] * len(pairs)).flatten()
    prompts = torch.arange(len(pairs)).repeat_interleave(2)
    return check_rewards(rewards, torch.tensor([1, -1] * len(pairs)), num_tokens, prompts)


def test_accuracy_counts_untied_pairs_with_their_wilson_interval():
    found = check([(1.0, 0.0), (2.0, 1.0), (0.0, 1.0), (1.0, 1.0)], [(5, 3), (3, 5), (5, 3), (5, 3)])
    assert (found.num_pairs, found.num_ties, found.num_responses) == (4, 1, 8)
    assert found.accuracy == pytest.approx(2 / 3)
    assert (found.low, found.high) == wilson_interval(2, 3)
    assert found.length_accuracy == pytest.approx(3 / 4)
    assert (found.length_low, found.length_high) == wilson_interval(3, 4)
    assert (found.chosen_mean, found.rejected_mean) == (1.0, 0.75)
    assert not found.inverted


def test_rewards_against_the_labels_are_inverted_only_when_it_is_significant():
    assert check([(0.0, 1.0)] * 20).inverted
    assert not check([(0.0, 1.0)] * 2 + [(1.0, 0.0)] * 2).inverted
    assert not check([(0.0, 1.0)]).inverted


def test_rewards_without_spread_or_gap_are_flat():
    assert check([(1.0, 1.0)] * 5).flat
    assert check([(1.0, 0.0), (0.0, 1.0)] * 10).flat
    assert not check([(1.0 + k / 10, 0.0) for k in range(10)]).flat


def test_the_histogram_spans_the_rewards_in_equal_steps():
    found = check([(k / 10, -k / 10) for k in range(1, 11)])
    assert (found.edges[0], found.edges[-1]) == (-1.0, 1.0)
    assert sum(found.counts) == found.num_responses == 20
    steps = [b - a for a, b in zip(found.edges, found.edges[1:], strict=False)]
    assert steps == pytest.approx([0.1] * 20)
    same = check([(2.0, 2.0)])
    assert (same.edges, same.counts) == ([2.0, 2.0], [2])


def test_every_chosen_meets_every_rejected_of_its_prompt():
    preference = torch.tensor([1, -1, -1, 0, -1, 1, 1])
    prompt = torch.tensor([0, 0, 0, 0, 7, 7, 3])
    chosen, rejected = pair_up(preference, prompt)
    assert list(zip(chosen.tolist(), rejected.tolist(), strict=True)) == [(0, 1), (0, 2), (5, 4)]


def test_data_without_labels_or_rewards_has_no_accuracy():
    found = check_rewards(torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor([1, 2]), torch.zeros(2))
    assert (found.accuracy, found.low, found.high, found.chosen_mean) == (None, 0.0, 1.0, None)
    missing = check_rewards(torch.full((4,), torch.nan), torch.tensor([1, -1, 1, -1]), torch.ones(4), torch.zeros(4))
    assert (missing.num_responses, missing.num_pairs, missing.counts) == (0, 0, [])


def test_fifty_thousand_pairs_are_checked_at_once():
    num = 50_000
    rewards = torch.randn(2 * num, generator=torch.Generator().manual_seed(0))
    found = check_rewards(rewards, torch.tensor([1, -1]).repeat(num), torch.ones(2 * num), torch.arange(num).repeat_interleave(2))
    assert found.num_pairs == num
    assert found.low < 0.5 < found.high


def test_a_kept_scoring_is_checked_by_its_index(tmp_path, batches):
    index = read_index(tmp_path, keep_index(tmp_path, batches, "rating").key)
    rewards = [read_rewards(make_recipe(reward={"source": "rating"}), batch) for batch in batches]
    found = check_index(index, gather_own(lay_out(batches), rewards))
    assert found.accuracy == 1.0  # the workshop rates what is chosen above 1, what is rejected below
    assert found == check_index(index, index.data_reward_N)


def test_inverted_rewards_are_refused_unless_the_recipe_accepts_them():
    inverted = check([(0.0, 1.0)] * 20)
    with pytest.raises(RecipeInvalid, match=r"contradict the preference labels: .* in only 0 % of 20 pairs") as refused:
        refuse_inverted(make_recipe(), inverted)
    assert refused.value.problems[0]["field"] == "reward.accept_inverted"
    refuse_inverted(make_recipe(reward={"accept_inverted": True}), inverted)
    refuse_inverted(make_recipe(method="sft"), inverted)
    refuse_inverted(make_recipe(), check([(1.0, 0.0)] * 20))
