from dataclasses import replace

import pytest
import torch

from app.domain.errors import ModelInvalid
from tests.worker.workshop import make_recipe
from worker.models import prefix
from worker.models.load import load_policy
from worker.models.reward import RewardModel
from worker.stages.scoring.pairs import (
    hash_texts,
    hash_tokens,
    mark_pairs,
    needs_cross_logprobs,
    needs_cross_rewards,
    own_prompts,
    read_rewards,
    require_finite,
    score_pairs,
    score_rewards,
)


@torch.inference_mode()
def naive_logprobs(network, batch) -> torch.Tensor:
    """The oracle: one full forward pass and a full log-softmax for every prompt with every response."""
    responses = [response.ids for example in batch for response in example.responses]
    table = torch.zeros(len(batch), len(responses))
    for i, example in enumerate(batch):
        for j, response in enumerate(responses):
            logits = network(torch.tensor([[*example.prompt_ids, *response]])).logits[0].float()
            predicted = torch.log_softmax(logits, dim=1)[len(example.prompt_ids) - 1 : -1]
            table[i, j] = predicted.gather(1, torch.tensor(response)[:, None].long()).sum()
    return table


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("shared", [True, False])
def test_scores_equal_one_full_pass_per_pair(workshop, batches, kind, shared):
    model = replace(load_policy(workshop.policy(kind), dtype="float32", device="cpu").language_model, shares_prefix=shared)
    want = naive_logprobs(model.network, batches[0])
    torch.testing.assert_close(score_pairs(model, batches[0], mark_pairs(batches[0], cross=True)), want, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("budget", [1, 150, 500])
def test_a_small_memory_budget_changes_nothing(policy, batches, monkeypatch, budget):
    want = score_pairs(policy.language_model, batches[1], mark_pairs(batches[1], cross=True))
    monkeypatch.setattr(prefix, "token_budget", lambda device: budget)
    torch.testing.assert_close(
        score_pairs(policy.language_model, batches[1], mark_pairs(batches[1], cross=True)), want, rtol=1e-5, atol=1e-3
    )


def test_without_cross_terms_only_own_pairs_are_scored(policy, batches):
    whole, own = (score_pairs(policy.language_model, batches[0], mark_pairs(batches[0], cross=cross)) for cross in (True, False))
    is_own = own_prompts(batches[0]) == torch.arange(len(batches[0]))[:, None]
    assert torch.equal(~own.isnan(), is_own)
    torch.testing.assert_close(own[is_own], whole[is_own], rtol=1e-5, atol=1e-3)


def test_the_reward_model_is_asked_about_every_pair_or_only_about_own_ones(workshop, batches):
    model = RewardModel(workshop.reward(), dtype="float32", device="cpu")
    whole, own = (score_rewards(model, batches[0], mark_pairs(batches[0], cross=cross)) for cross in (True, False))
    is_own = own_prompts(batches[0]) == torch.arange(len(batches[0]))[:, None]
    assert not whole.isnan().any()
    assert torch.equal(~own.isnan(), is_own)
    torch.testing.assert_close(own[is_own], whole[is_own], rtol=1e-4, atol=1e-4)


def test_ratings_and_labels_come_from_the_data(batches):
    own_M = own_prompts(batches[0])
    labels = read_rewards(make_recipe(), batches[0]).gather(0, own_M[None])[0]
    assert labels.tolist() == [1.0, -1.0] * len(batches[0])
    ratings = read_rewards(make_recipe(reward={"source": "rating"}), batches[0]).gather(0, own_M[None])[0]
    assert ratings.tolist() == pytest.approx([r.rating for e in batches[0] for r in e.responses])


def test_a_model_that_gives_no_finite_number_is_named(batches):
    own_M = own_prompts(batches[0])
    score_BM = torch.full((len(batches[0]), len(own_M)), float("nan"))
    score_BM[own_M, torch.arange(len(own_M))] = 1.0
    assert require_finite(score_BM, batches[0], cross=False, what="The reward model") is score_BM
    with pytest.raises(ModelInvalid, match="The policy gives a number that is not finite for the prompt of example"):
        require_finite(score_BM, batches[0], cross=True, what="The policy")


def test_cross_terms_are_needed_only_where_the_weights_read_them():
    def needs(**weights):
        settings = make_recipe(True, weights={"lambda": 1.0, **weights}).weights
        return needs_cross_logprobs(settings), needs_cross_rewards(settings)

    assert needs(preset="paper") == (True, True)
    assert needs(preset="paper", cross_reward="reuse") == (True, False)
    assert needs(preset="within_prompt") == (False, False)
    assert needs(preset="reward_weighted") == (False, False)


def test_the_keys_change_with_what_they_cover(batches):
    assert hash_tokens(batches).digest() == hash_tokens(batches).digest()
    assert hash_texts(batches).digest() == hash_texts(batches).digest()
    swapped = [batches[1], batches[0], *batches[2:]]
    assert hash_tokens(swapped).digest() != hash_tokens(batches).digest()
    assert hash_texts(swapped).digest() != hash_texts(batches).digest()
