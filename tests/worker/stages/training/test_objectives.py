import random
from array import array

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from tests.worker.workshop import make_recipe
from worker.models.adapter import adapt
from worker.models.template import ChatTurn
from worker.stages.examples import Encoded, EncodedResponse
from worker.stages.scoring.pairs import sequence_logprobs
from worker.stages.training.gradients import PairedBatch, accumulate_dpo
from worker.stages.training.objectives import PlainObjective, find_pairs, paired_batches, plain_batches


def example(*labels: int | None, example_id: int = 0, seed: int = 0) -> Encoded:
    chance = random.Random(seed)
    responses = [
        EncodedResponse(array("i", [chance.randrange(2, 300) for _ in range(3 + k)]), f"answer {k}", None, label, k)
        for k, label in enumerate(labels)
    ]
    return Encoded(example_id, (ChatTurn("user", "q"),), array("i", [5, 6, 7]), tuple(responses))


def test_every_chosen_response_meets_every_rejected_one_of_its_example():
    batch = [example(1, -1), example(None, 1), example(-1, 1, None, 1, -1)]
    chosen_P, rejected_P = find_pairs(batch)
    assert list(zip(chosen_P.tolist(), rejected_P.tolist(), strict=True)) == [(0, 1), (5, 4), (5, 8), (7, 4), (7, 8)]


def test_plain_fine_tuning_is_the_mean_over_the_tokens_of_what_enters():
    batch = [example(1, -1), example(1, -1, seed=1)]
    (both,) = plain_batches([batch], make_recipe(method="sft").weights)
    assert both.coefficient_M.tolist() == pytest.approx([1 / 14] * 4)
    (chosen,) = plain_batches([batch], make_recipe(method="sft", weights={"responses": "chosen"}).weights)
    assert chosen.coefficient_M.tolist() == pytest.approx([1 / 6, 0, 1 / 6, 0])


def test_dpo_reads_the_own_log_probabilities_only():
    nan = float("nan")
    (batch,) = paired_batches(
        [[example(1, -1), example(1, -1)]], [torch.tensor([[-1.0, -2.0, nan, nan], [nan, nan, -3.0, -4.0]])]
    )
    assert batch.reference_M.tolist() == [-1, -2, -3, -4]


def test_a_batch_without_pairs_moves_nothing(policy):
    batch = PairedBatch(0, [example(1)], *find_pairs([example(1)]), torch.tensor([-1.0]))
    policy.language_model.network.zero_grad()
    done = accumulate_dpo(policy.language_model, batch, None, 0.1)
    assert (float(done.loss), done.num_tokens) == (0, 0)
    assert set(map(float, done.metrics.values())) == {0.0}
    assert all(parameter.grad is None for parameter in policy.language_model.network.parameters())


def test_every_epoch_visits_all_batches_in_an_order_of_its_own():
    batches = plain_batches([[example(1)]] * 7, make_recipe(method="sft").weights)
    objective = PlainObjective(batches, make_recipe().training)
    epochs = [[objective.batch_at(step, None).index for step in range(start, start + 7)] for start in (0, 7)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(7))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_an_answer_drawn_at_a_temperature_has_the_probability_of_tokens_drawn_so(temperature):
    """Also under a cap on the logits, which comes before the temperature."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=32, final_logit_softcapping=2.0, initializer_range=0.5, pad_token_id=0, attn_logit_softcapping=None,
    )  # fmt: skip
    model = adapt(Gemma2ForCausalLM(config).eval())
    pairs = [([3, 4, 5], [6, 7]), ([8], [9, 10, 11, 12])]
    have = sequence_logprobs(model, pairs, temperature)
    for (prompt, answer), logprob in zip(pairs, have.tolist(), strict=True):
        logits = model.network(torch.tensor([[*prompt, *answer]])).logits[0].detach()[len(prompt) - 1 : -1]
        want = torch.log_softmax(logits / temperature, dim=1).gather(1, torch.tensor(answer)[:, None]).sum()
        assert logprob == pytest.approx(float(want), abs=1e-4)
