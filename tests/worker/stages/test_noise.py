import pytest
import torch

from app.domain.recipe import NoiseSettings
from tests.worker.workshop import make_recipe
from worker.stages.noise import add_noise, draw_uniform, flip_labels, perturb_rewards
from worker.stages.scoring.pairs import own_prompts, read_rewards
from worker.stages.training.weights import gather_own

EXAMPLES = torch.arange(20_000)


def test_about_the_wanted_share_of_examples_is_swapped_and_all_of_an_example_with_it():
    preference_N = torch.tensor([1, -1, 0]).repeat(20_000)
    flipped_N = flip_labels(preference_N, EXAMPLES.repeat_interleave(3), 0.3, seed=4)
    factors = (flipped_N * preference_N).view(-1, 3)
    assert set(map(tuple, factors.unique(dim=0).tolist())) == {(1, 1, 0), (-1, -1, 0)}
    assert float((factors[:, 0] == -1).double().mean()) == pytest.approx(0.3, abs=0.01)


def test_a_larger_share_swaps_the_same_examples_and_more():
    ones = torch.ones_like(EXAMPLES)
    few, many = (flip_labels(ones, EXAMPLES, share, seed=4) == -1 for share in (0.1, 0.3))
    assert bool((few & ~many).sum() == 0)
    assert not torch.equal(few, flip_labels(ones, EXAMPLES, 0.1, seed=5) == -1)


def test_noise_depends_on_ids_and_seed_not_on_what_stands_beside():
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(500)
    whole = perturb_rewards(zeros, EXAMPLES[:500], EXAMPLES[:500], zeros.long(), 1.0, seed=3)
    part = perturb_rewards(zeros, order, order, zeros.long(), 1.0, seed=3)
    assert torch.equal(part, whole[order])
    assert not torch.equal(perturb_rewards(zeros, EXAMPLES[:500], EXAMPLES[:500], zeros.long(), 1.0, seed=4), whole)


def test_the_noise_on_rewards_is_normal_and_fresh_for_every_pair():
    rows, columns = torch.arange(100)[:, None], torch.arange(100)
    noise_BM = perturb_rewards(
        torch.zeros(100, 100, dtype=torch.float64), rows, columns, torch.zeros(100, dtype=torch.long), 2.0, seed=1
    )
    assert float(noise_BM.mean()) == pytest.approx(0, abs=0.06)
    assert float(noise_BM.std()) == pytest.approx(2, abs=0.06)
    assert float((noise_BM / 2).pow(4).mean()) == pytest.approx(3, abs=0.3)  # a Gaussian's kurtosis
    assert noise_BM.unique().numel() == noise_BM.numel()


def test_missing_rewards_stay_missing():
    reward_BM = torch.tensor([[1.0, float("nan")]])
    after_BM = perturb_rewards(reward_BM, torch.tensor([[0]]), torch.tensor([0, 1]), torch.tensor([0, 0]), 1.0, seed=1)
    assert after_BM.isnan().tolist() == [[False, True]]


def test_the_uniform_numbers_are_uniform():
    drawn = draw_uniform(7, 1, EXAMPLES)
    counts = torch.histc(drawn, bins=20, min=0, max=1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 43  # chi-squared with 19 degrees of freedom: one in a thousand
    assert float(torch.corrcoef(torch.stack([drawn[:-1], drawn[1:]]))[0, 1]) == pytest.approx(0, abs=0.03)


def test_where_the_label_is_the_reward_both_flip_and_otherwise_only_the_label(batches):
    rewards = [read_rewards(make_recipe(), batch) for batch in batches]
    noise = NoiseSettings(label_flip_share=0.5, seed=2)
    for source in ("preference", "model"):
        noisy, perturbed = add_noise(batches, rewards, noise, source)
        labels, now = ([r.preference for b in some for e in b for r in e.responses] for some in (batches, noisy))
        after = torch.cat([gather_own(own_prompts(b), r) for b, r in zip(batches, perturbed, strict=True)]).tolist()
        assert 0 < sum(a != b for a, b in zip(labels, now, strict=True)) < len(labels)
        assert after == [float(label) for label in (now if source == "preference" else labels)]
    assert [[e.example_id for e in batch] for batch in noisy] == [[e.example_id for e in batch] for batch in batches]


def test_without_noise_nothing_changes(batches):
    rewards = [read_rewards(make_recipe(), batch) for batch in batches]
    noisy, perturbed = add_noise(batches, rewards, NoiseSettings(), "preference")
    assert noisy == [list(batch) for batch in batches]
    assert all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(rewards, perturbed, strict=True))
