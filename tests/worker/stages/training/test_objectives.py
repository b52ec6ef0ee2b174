import math
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
from worker.stages.training.gradients import PairedBatch, PlainBatch, accumulate_labelled, accumulate_preferences
from worker.stages.training.objectives import PlainObjective, find_pairs, labelled_batches, paired_batches, plain_batches
from worker.var.preferences import Dpo


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


def test_kto_reads_the_own_log_probabilities_and_each_prompt_with_the_first_labelled_response_before():
    batch = [example(None, 1), example(-1, example_id=1), example(None, example_id=2), example(1, -1, example_id=3)]
    logprob_BM = torch.arange(4 * 6, dtype=torch.float32).view(4, 6)
    (labelled,) = labelled_batches([batch], [logprob_BM])
    assert labelled.sign_M.tolist() == [0, 1, -1, 0, 1, -1]
    assert labelled.reference_M.tolist() == [0, 1, 8, 15, 22, 23]
    assert [(one.example_id, one.responses) for one in labelled.strange] == [
        (0, batch[3].responses[:1]), (1, batch[0].responses[1:2]), (3, batch[1].responses[:1]),
    ]  # fmt: skip
    assert labelled.strange_B.tolist() == [4, 6 + 1, 18 + 2]
    (alone,) = labelled_batches([[example(1, -1)]], [torch.zeros(1, 2)])
    assert not alone.strange


@pytest.mark.parametrize("micro_batch_size", [None, 1])
def test_kto_on_a_model_is_its_formula(policy, micro_batch_size):
    """Loss, reference point and the gradient of the head, written out; in micro-batches as in one."""
    model = policy.language_model
    batch = [example(1, -1, example_id=k, seed=k) for k in range(3)]
    rows = [[(one.prompt_ids, response.ids) for other in batch for response in other.responses] for one in batch]
    have_BM = torch.stack([sequence_logprobs(model, row) for row in rows])
    (labelled,) = labelled_batches([batch], [have_BM - torch.tensor([[0.5], [-0.25], [1.25]])])
    model.network.zero_grad()
    done = accumulate_labelled(model, labelled, micro_batch_size, 0.4, (1.0, 1.5))
    assert float(done.metrics["kto/kl"]) == pytest.approx(0.5, abs=1e-5)  # (0.5 − 0.25 + 1.25)/3
    gains = [0.4 * (gain - 0.5) for gain in (0.5, -0.25, 1.25)]
    values = [(1 / (1 + math.exp(-gain)), 1 / (1 + math.exp(gain))) for gain in gains]
    assert float(done.loss) == pytest.approx(sum((1 - good) + 1.5 * (1 - bad) for good, bad in values) / 6, abs=1e-5)
    found = {name: p.grad.clone() for name, p in model.network.named_parameters() if p.grad is not None}
    factors = torch.tensor([w * s * 0.4 * g * b / 6 for g, b in values for s, w in ((1, 1.0), (-1, 1.5))])
    model.network.zero_grad()
    PlainObjective([], make_recipe().training).accumulate(model, PlainBatch(0, batch, labelled.enters_M, factors))
    for name, gradient in found.items():
        want = model.network.get_parameter(name).grad
        assert (gradient - want).norm() <= 1e-4 * want.norm(), name


def test_a_batch_without_pairs_moves_nothing(policy):
    batch = PairedBatch(0, [example(1)], *find_pairs([example(1)]), torch.tensor([-1.0]), torch.tensor([3]))
    policy.language_model.network.zero_grad()
    done = accumulate_preferences(policy.language_model, batch, None, Dpo(0.1), "dpo")
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
