import statistics

import pytest
import torch

from worker.demonstration.data import generate_answers, generate_pairs, list_texts
from worker.demonstration.models import (
    CONTEXT,
    Plan,
    Size,
    answer_loss,
    build_policy,
    draw_batches,
    emphasise_fitting,
    encode_pairs,
    encode_turns,
    pair_accuracy,
    rate_at,
    train_policy,
    train_reward,
)
from worker.demonstration.tokenizer import build_tokenizer

TINY = Size(hidden=32, layers=1, heads=2, feed_forward=64)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(list_texts(), CONTEXT)


def test_a_tiny_policy_learns_from_answers(tokenizer):
    losses = []
    train_policy(tokenizer, generate_answers(0, 480), 0, lambda _step, _num, loss: losses.append(loss), TINY)
    assert len(losses) == 60
    assert statistics.fmean(losses[-5:]) < 0.75 * losses[0]


def test_a_tiny_reward_model_learns_to_tell_good_from_bad(tokenizer):
    losses = []
    reward = train_reward(tokenizer, generate_pairs(0, 640), 0, lambda _step, _num, loss: losses.append(loss), TINY)
    assert statistics.fmean(losses[-5:]) < 0.8 * losses[0]
    assert pair_accuracy(reward, encode_pairs(tokenizer, generate_pairs(1, 100)), tokenizer.pad_token_id) > 0.7


def test_the_same_seed_trains_the_same_model(tokenizer):
    first, second = (train_policy(tokenizer, generate_answers(0, 64), 7, lambda *_: None, TINY).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_is_the_mean_cross_entropy_of_the_answers_tokens_alone(tokenizer):
    rows = [encode_turns(tokenizer, *answer) for answer in generate_answers(2, 3)]
    policy = build_policy(tokenizer, TINY, seed=0)
    expected, num_tokens = 0.0, 0
    for row in rows:
        logits = policy(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        answer = range(row.start, len(row.ids))
        expected -= sum(logits[t - 1, row.ids[t]].item() for t in answer)
        num_tokens += len(answer)
    loss = answer_loss(policy, rows, tokenizer.pad_token_id, torch.ones(len(tokenizer)))
    assert loss.item() == pytest.approx(expected / num_tokens, rel=1e-5)


def test_an_answer_starts_after_the_prompt_and_ends_with_the_end(tokenizer):
    prompt, answer = generate_answers(3, 1)[0]
    row = encode_turns(tokenizer, prompt, answer)
    assert tokenizer.decode(row.ids[row.start :], skip_special_tokens=True) == answer
    assert row.ids[-1] == tokenizer.eos_token_id
    assert len(row.ids) <= CONTEXT


def test_words_that_make_an_answer_fit_are_emphasised_and_common_words_are_not(tokenizer):
    emphasis = emphasise_fitting(tokenizer)
    emphasised = {word for word in tokenizer.get_vocab() if emphasis[tokenizer.get_vocab()[word]] > 1}
    assert {"▁toaster", "▁wedding", "▁Friday", "▁fuse"} <= emphasised
    assert emphasised.isdisjoint({"▁the", "▁by", ".", "▁message"})


def test_batches_take_each_item_once_a_pass():
    batches = list(draw_batches(list(range(10)), Plan(steps=5, batch_size=4, learning_rate=1.0), seed=0))
    assert [len(batch) for batch in batches] == [4] * 5
    drawn = [item for batch in batches for item in batch]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))


def test_the_learning_rate_rises_and_then_falls_to_a_tenth():
    plan = Plan(steps=100, batch_size=1, learning_rate=1.0, warmup_steps=10)
    rates = [rate_at(step, plan) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)
