import random
from array import array
from dataclasses import replace

import pytest
import torch

from app.domain.recipe import LoraSettings
from worker.models.load import load_policy
from worker.models.lora import add_lora
from worker.models.packed import Packing
from worker.stages.batches import collate, collate_packed, count_steps, order_epoch, plan_batches, split_batch
from worker.stages.examples import Encoded, EncodedResponse
from worker.stages.scoring.pairs import own_prompts
from worker.stages.training.gradients import accumulate_weighted
from worker.stages.training.weights import WeightedBatch
from worker.var.candidates import Candidates


@pytest.mark.parametrize(("num", "size"), [(8, 4), (9, 8), (17, 8), (3, 8), (1, 1), (100, 7)])
def test_batches_hold_every_example_once_and_differ_in_size_by_one(num, size):
    plan = plan_batches(num, size, seed=3)
    assert sorted(i for batch in plan for i in batch) == list(range(num))
    sizes = {len(batch) for batch in plan}
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_the_plan_and_the_epochs_follow_their_seeds():
    assert plan_batches(50, 8, 1) == plan_batches(50, 8, 1) != plan_batches(50, 8, 2)
    assert order_epoch(9, 1, 0) == order_epoch(9, 1, 0) != order_epoch(9, 1, 1)
    assert sorted(order_epoch(9, 1, 4)) == list(range(9))


def test_steps_replace_epochs():
    assert count_steps(10, 1.0, None) == 10
    assert count_steps(10, 0.25, None) == 3
    assert count_steps(10, 2.0, 7) == 7
    assert count_steps(10, 0.001, None) == 1


def test_rows_say_where_each_response_token_is_predicted():
    rows = collate([([1, 2, 3], [4, 5]), ([6], [7, 8, 9])])
    assert rows.ids_RT.tolist() == [[1, 2, 3, 4], [6, 7, 8, 0]]
    assert rows.mask_RT.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert rows.ids_RT.flatten()[rows.place_N].tolist() == [3, 4, 6, 7, 8]  # the tokens before
    assert rows.target_N.tolist() == [4, 5, 7, 8, 9]
    assert rows.owner_N.tolist() == [0, 0, 1, 1, 1]
    assert rows.num_tokens == 9


def weighted(examples) -> WeightedBatch:
    own_M = own_prompts(examples)
    coefficient_M = torch.linspace(0.01, 0.05, len(own_M))
    candidates = Candidates(
        own_M, torch.zeros(len(examples), len(own_M)), torch.ones(len(own_M)), torch.zeros(len(examples), len(own_M))
    )
    return WeightedBatch(
        0, examples, candidates, torch.zeros(len(own_M), dtype=torch.long), torch.ones(len(own_M)), coefficient_M
    )


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_micro_batches_add_up_to_the_whole_batch(batches, policy, size):
    model, batch = policy.language_model, weighted(batches[0])

    def gradient(micro_batch_size):
        model.network.zero_grad()
        done = accumulate_weighted(model, batch, micro_batch_size)
        return done.loss, done.num_tokens, torch.cat([p.grad.flatten() for p in model.network.parameters()])

    loss, tokens, grad = gradient(None)
    micro_loss, micro_tokens, micro_grad = gradient(size)
    model.network.zero_grad()
    assert tokens == micro_tokens
    torch.testing.assert_close(loss, micro_loss)
    torch.testing.assert_close(grad, micro_grad, rtol=1e-4, atol=1e-5)


def test_the_accumulated_loss_is_the_written_out_one(batches, policy):
    batch, network = weighted(batches[0]), policy.language_model.network
    want, j = 0.0, 0
    for example in batch.examples:
        for response in example.responses:
            logits = network(torch.tensor([[*example.prompt_ids, *response.ids]])).logits[0]
            logprob = torch.log_softmax(logits[len(example.prompt_ids) - 1 : -1], dim=1)
            chosen = logprob.gather(1, torch.tensor(response.ids)[:, None].long())
            want -= float(batch.coefficient_M[j] * chosen.detach().sum())
            j += 1
    loss = accumulate_weighted(policy.language_model, batch, 2).loss
    network.zero_grad()
    assert float(loss) == pytest.approx(want, rel=1e-5)


def test_responses_outside_the_loss_cost_nothing(batches):
    batch = weighted(batches[0])
    enters_M = torch.tensor([True, False] * len(batch.examples))
    batch = replace(batch, candidates=replace(batch.candidates, enters_M=enters_M))
    for packs in (False, True):
        micro_batches = split_batch(batch.examples, batch.enters_M, 2, packs=packs)
        assert sorted(j for micro in micro_batches for j in micro.response_R.tolist()) == [0, 2, 4, 6]


def test_a_packed_row_holds_each_prompt_once():
    rows = collate_packed([([1, 2, 3], [[4, 5], [6]]), ([7], [[8, 9, 10]])])
    assert rows.ids_RT.tolist() == [[1, 2, 3, 4, 7, 8, 9]]
    assert rows.packing == Packing([[3, 1, 0], [1, 2]])
    assert rows.packing.positions().tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert rows.ids_RT[0][rows.place_N].tolist() == [3, 4, 3, 7, 8, 9]  # the tokens before: a prompt's last one twice
    assert rows.target_N.tolist() == [4, 5, 6, 8, 9, 10]
    assert rows.owner_N.tolist() == [0, 0, 1, 2, 2, 2]
    assert rows.num_tokens == collate([([1, 2, 3], [4, 5]), ([1, 2, 3], [6]), ([7], [8, 9, 10])]).num_tokens


def draw_example(chance: random.Random, prompt: int, *responses: int) -> Encoded:
    """An example with random ids of these lengths."""

    def ids(length):
        return array("i", [chance.randrange(2, 300) for _ in range(length)])

    return Encoded(
        0, (), ids(prompt), tuple(EncodedResponse(ids(length), "", None, None, k) for k, length in enumerate(responses))
    )


BATCHES = {
    "pairs": [(9, 12, 14), (10, 11, 9), (8, 10, 13)],
    "prompts of very different lengths": [(2, 5, 30), (120, 4, 6), (31, 9, 9), (1, 8, 3)],
    "one response, many, and one of one token": [(20, 7), (15, 1, 4, 1, 9), (33, 1)],
    "single responses of different lengths": [(5, 4), (40, 30), (11, 3)],
}


@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("adaptation", ["full", "lora"])
@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_packed_rows_give_the_loss_and_the_gradient_of_padded_ones(workshop, kind, adaptation, micro_batch_size, lengths):
    model = load_policy(workshop.policy(kind), dtype="float32", device="cpu").language_model
    if adaptation == "lora":
        model = add_lora(model, LoraSettings(rank=4), seed=3)
        with torch.no_grad():
            for name, parameter in model.network.named_parameters():
                parameter += 0.05 * torch.randn(parameter.shape) if "lora_" in name else 0.0
    chance = random.Random(5)
    batch = weighted([draw_example(chance, *row) for row in lengths])
    assert model.packs
    parts = split_batch(batch.examples, batch.enters_M, micro_batch_size, packs=True)
    assert any(part.rows.packing for part in parts)

    def gradient(model):
        model.network.train().zero_grad()
        done = accumulate_weighted(model, batch, micro_batch_size)
        return done.loss, done.num_tokens, [p.grad for p in model.network.parameters() if p.requires_grad]

    packed, padded = gradient(model), gradient(replace(model, packs=False))
    torch.testing.assert_close(packed[0], padded[0], rtol=1e-6, atol=0)
    assert packed[1] == padded[1]
    for have, want in zip(packed[2], padded[2], strict=True):
        assert (have - want).norm() <= 2e-5 * want.norm() + 1e-7


def test_rows_are_packed_only_where_that_spares_something():
    chance = random.Random(1)
    equal = [draw_example(chance, 10, 7) for _ in range(4)]
    pairs = [draw_example(chance, 10, 7, 7) for _ in range(4)]
    for examples, packs, expected in ((equal, True, False), (pairs, True, True), (pairs, False, False)):
        batch = weighted(examples)
        (micro,) = split_batch(examples, batch.enters_M, None, packs=packs)
        assert (micro.rows.packing is not None) == expected
