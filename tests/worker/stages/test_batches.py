from dataclasses import replace

import pytest
import torch

from worker.stages.batches import collate, count_steps, order_epoch, plan_batches, split_batch
from worker.stages.score import own_prompts
from worker.stages.train import accumulate_gradient
from worker.stages.weigh import WeightedBatch
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
        loss, num_tokens = accumulate_gradient(model, batch, micro_batch_size)
        return loss, num_tokens, torch.cat([p.grad.flatten() for p in model.network.parameters()])

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
    loss, _ = accumulate_gradient(policy.language_model, batch, 2)
    network.zero_grad()
    assert float(loss) == pytest.approx(want, rel=1e-5)


def test_responses_outside_the_loss_cost_nothing(batches):
    batch = weighted(batches[0])
    enters_M = torch.tensor([True, False] * len(batch.examples))
    batch = replace(batch, candidates=replace(batch.candidates, enters_M=enters_M))
    micro_batches = split_batch(batch.examples, batch.enters_M, 2)
    assert sorted(j for micro in micro_batches for j in micro.response_R.tolist()) == [0, 2, 4, 6]
