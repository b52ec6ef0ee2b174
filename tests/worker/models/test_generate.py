from dataclasses import replace

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from worker.models.generate import RoomyLayer, Sampling, _draw, close_up, generate, stream
from worker.models.load import load_policy

PROMPTS = [[5, 9, 30, 31, 32], [40], [7, 7, 8, 100, 101, 102, 103, 104], [12, 13]]
DRAWN = Sampling(max_new_tokens=10, temperature=1.0, top_p=1.0, seed=4, end_ids=frozenset())


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen2"])
def model(request, workshop):
    return load_policy(workshop.policy(request.param), dtype="float32", device="cpu").language_model


def test_an_answer_does_not_depend_on_the_rows_beside_it(model):
    together = generate(model, PROMPTS, DRAWN)
    unpadded = generate(replace(model, shares_prefix=False), PROMPTS, DRAWN)  # groups of equal length, no cache
    assert together == unpadded
    assert len({len(answer) for answer in together}) == 1


def test_rows_of_one_prompt_share_its_pass_and_answer_as_alone(model):
    seeds = list(range(9))
    asked = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[2], *[PROMPTS[0]] * 5]
    read = []

    def run(ids, *others, **options):
        read.append(ids.shape)
        return model.run(ids, *others, **options)

    watched = replace(model)
    object.__setattr__(watched, "run", run)
    together = generate(watched, asked, DRAWN, seeds=seeds)
    assert together == [generate(model, [prompt], DRAWN, seeds=[seed])[0] for prompt, seed in zip(asked, seeds, strict=True)]
    if model.shares_prefix:
        assert read[0][0] == 3
        assert {shape[0] for shape in read[1:]} == {9}


def test_a_stream_gives_the_same_answer_token_by_token(model):
    for prompt in PROMPTS:
        [answer] = generate(model, [prompt], DRAWN)
        tokens = stream(model, prompt, DRAWN)
        assert [next(tokens), *tokens] == answer
    assert not torch.is_inference_mode_enabled()


def test_the_same_seed_gives_the_same_answers_and_another_seed_others(model):
    assert generate(model, PROMPTS, DRAWN) == generate(model, PROMPTS, DRAWN)
    assert generate(model, PROMPTS, DRAWN) != generate(model, PROMPTS, replace(DRAWN, seed=5))


def test_training_random_numbers_are_left_alone(model):
    before = torch.get_rng_state()
    model.network.train()
    generate(model, PROMPTS, DRAWN)
    assert torch.equal(before, torch.get_rng_state())
    assert model.network.training
    model.network.eval()


def test_greedy_answers_equal_the_librarys_own(model):
    greedy = replace(DRAWN, temperature=0.0)
    for prompt, answer in zip(PROMPTS, generate(model, PROMPTS, greedy), strict=True):
        whole = model.network.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            do_sample=False,
            max_new_tokens=10,
            eos_token_id=None,
        )
        assert whole[0, len(prompt) :].tolist() == answer


def test_an_answer_ends_with_the_end_token(model):
    free = generate(model, PROMPTS, DRAWN)
    end = free[0][3]
    ended = generate(model, PROMPTS, replace(DRAWN, end_ids=frozenset({end})))
    for longer, shorter in zip(free, ended, strict=True):
        assert shorter == longer[: longer.index(end) + 1 if end in longer else None]


def test_samples_follow_the_models_distribution(model):
    prompt = [3, 50, 60]
    logits = model.network(torch.tensor([prompt])).logits[0, -1]
    want = torch.softmax(logits.detach(), dim=0)
    once = replace(DRAWN, max_new_tokens=1)
    drawn = torch.tensor(generate(model, [prompt] * 4000, once))[:, 0]
    have = torch.bincount(drawn, minlength=len(want)) / 4000
    assert (have - want).abs().sum() / 2 < 0.12  # total variation; its expectation is about 0.08 here


def test_a_small_top_p_keeps_only_the_likeliest(model):
    nucleus = generate(model, PROMPTS, replace(DRAWN, top_p=1e-6))
    assert nucleus == generate(model, PROMPTS, replace(DRAWN, temperature=0.0))


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
def test_a_draw_is_that_of_the_vocabulary_sorted_with_its_ids(top_p):
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 3000, generator=chance) * torch.logspace(-2, 1, 400)[:, None]  # flat to peaked
    logits[::3] = logits[::3].round()  # with equals
    uniform = torch.rand(400, generator=chance, dtype=torch.float64)
    prob, token = torch.softmax(logits, dim=-1).sort(dim=-1, descending=True, stable=True)
    kept = torch.where(prob.double().cumsum(dim=-1) - prob < top_p, prob, 0.0) if top_p < 1 else prob
    cumulative = kept.double().cumsum(dim=-1)
    place = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    drawn = _draw(logits, uniform, replace(DRAWN, top_p=top_p))
    assert torch.equal(drawn, token.gather(1, place)[:, 0])


def test_rows_close_up_with_as_few_moves_as_can_be():
    assert close_up([0, 1, 2]) == [0, 1, 2]
    assert close_up([1, 2, 5]) == [5, 1, 2]
    assert close_up([3, 4]) == [4, 3]
    assert close_up([]) == []


def test_a_layer_with_room_holds_what_one_that_is_copied_holds():
    chance, length = torch.Generator().manual_seed(0), 5
    copied = DynamicLayer()
    copied.update(*torch.rand(2, 9, 2, length, 3, generator=chance))
    roomy = RoomyLayer(copied)
    chosen = [list(range(9)), [4, 1, 2, 3], [3, 2, 1, 0], [1, 1], [1]]
    for rows in chosen:
        for layer in (copied, roomy):
            layer.batch_select_indices(torch.tensor(rows))
        for _ in range(30):
            states = torch.rand(2, len(rows), 2, 1, 3, generator=chance)
            told = [layer.update(*states) for layer in (copied, roomy)]
            length += 1
            assert all(torch.equal(a, b) for a, b in zip(*told, strict=True))
            assert copied.get_seq_length() == roomy.get_seq_length() == length
            assert copied.get_mask_sizes(1) == roomy.get_mask_sizes(1)


def test_answers_of_rows_that_leave_are_those_that_each_row_gives_alone(model):
    ended = replace(DRAWN, max_new_tokens=30, end_ids=frozenset(range(0, 300, 7)))
    asked = [[5 + k, *range(30, 32 + k)] for k in range(8)]
    together = generate(model, asked, ended, seeds=range(8))
    assert len({len(answer) for answer in together}) > 4
    assert together == [generate(model, [prompt], ended, seeds=[k])[0] for k, prompt in enumerate(asked)]


def test_a_stop_is_noticed_within_a_token(model):
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        generate(model, PROMPTS, DRAWN, check)
    assert len(calls) == 3
