from types import SimpleNamespace

import pytest
import torch

from tests.worker.workshop import make_recipe
from worker.models.generate import Sampling
from worker.models.load import load_policy
from worker.models.lora import add_lora
from worker.models.prompts import PromptFormat
from worker.stages.evaluate import Answers, HeldOut, choose_prompts, compare, measure_kl, measure_loss
from worker.stages.examples import Lengths, Prepared
from worker.stages.prepare import Ground


def answers(*rewards: float) -> Answers:
    return Answers([[1, 2]] * len(rewards), ["x"] * len(rewards), list(rewards))


def test_ties_count_half_and_the_interval_holds_the_rate():
    metrics = compare(answers(1.0, 2.0, 3.0, 0.0), answers(0.0, 2.0, 1.0, 5.0))
    assert metrics["eval/win_rate"] == 0.625
    assert metrics["eval/win_rate_low"] < 0.625 < metrics["eval/win_rate_high"]
    assert metrics["eval/reward_gain"] == pytest.approx(-0.5)


def test_without_a_judge_there_are_lengths_only():
    unjudged = Answers([[1], [1, 2, 3]], ["", ""], None, num_unfinished=1)
    told = {"length_policy": 2.0, "length_reference": 2.0, "unfinished_policy": 0.5, "unfinished_reference": 0.5}
    assert compare(unjudged, unjudged) == {f"eval/{name}": value for name, value in told.items()}


def test_prompts_are_different_seeded_and_at_most_as_many_as_asked(batches):
    examples = [example for batch in batches for example in batch]
    chosen = choose_prompts([*examples, *examples], 6, 0)
    assert len({example.turns for example in chosen}) == 6
    assert chosen == choose_prompts([*examples, *examples], 6, 0) != choose_prompts([*examples, *examples], 6, 1)
    assert len(choose_prompts(examples[:3], 6, 0)) == 3


def test_each_seed_moves_its_own_choice_and_no_other(workshop, prepare_rows):
    path = workshop.dataset(workshop.examples())

    def chosen(**settings):
        recipe = make_recipe(evaluation={"share": 0.5, **settings})
        prepared = prepare_rows(path, recipe)
        prompts = choose_prompts(prepared.held_out, 4, recipe.evaluation.seed_for("prompts"))
        return [[e.example_id for e in part] for part in (prepared.train, prompts)]

    train, prompts = chosen()
    assert chosen(draw_seed=7) == [train, prompts]
    assert chosen(prompt_seed=7)[0] == train
    assert chosen(prompt_seed=7)[1] != prompts
    assert chosen(seed=7)[0] != train
    assert chosen(seed=0, prompt_seed=0) == [train, prompts]


@pytest.fixture
def held_out(workshop, batches, policy):
    prompts = batches[0]
    sampling = Sampling(8, 1.0, 1.0, 0, frozenset())
    ids = [list(example.responses[0].ids) for example in prompts]
    reference = Answers(ids, [""] * len(ids), None)
    ground = Ground(workshop.policy(), PromptFormat.choose(policy.tokenizer), Lengths(64, 48, 12), Prepared([], [], 0, 0), [])
    return HeldOut(prompts, prompts, ground, sampling, reference)


def attempt():
    return SimpleNamespace(recipe=make_recipe(), spec=SimpleNamespace(device="cpu"))


@torch.no_grad()
def move(model, parameters) -> None:
    """The same change for both ways to hold a policy."""
    generator = torch.Generator().manual_seed(5)
    for parameter in parameters:
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


@torch.inference_mode()
def naive_kl(policy, reference, held_out) -> float:
    total = 0.0
    for example, ids in zip(held_out.prompts, held_out.reference.ids, strict=True):
        whole, start = torch.tensor([[*example.prompt_ids, *ids]]), len(example.prompt_ids)
        for network, sign in ((policy, 1), (reference, -1)):
            logprob = torch.log_softmax(network(whole).logits[0, start - 1 : -1], dim=1)
            total += sign * float(logprob.gather(1, whole[0, start:, None]).sum())
    return total / len(held_out.prompts)


def test_an_untrained_policy_has_no_divergence_from_its_reference(workshop, held_out):
    model = load_policy(workshop.policy(), dtype="float32", device="cpu").language_model
    assert measure_kl(attempt(), model, held_out, held_out.reference) == pytest.approx(0.0, abs=1e-5)


def test_full_fine_tuning_measures_kl_against_the_weights_it_started_from(workshop, held_out, policy):
    model = load_policy(workshop.policy(), dtype="float32", device="cpu").language_model
    move(model, model.network.parameters())
    want = naive_kl(model.network, policy.language_model.network, held_out)
    assert abs(want) > 0.1
    assert measure_kl(attempt(), model, held_out, held_out.reference) == pytest.approx(want, rel=1e-3)


def test_lora_measures_kl_against_itself_without_the_adapter(workshop, held_out, policy):
    recipe = make_recipe(policy={"adaptation": "lora"})
    model = load_policy(workshop.policy(), dtype="float32", device="cpu").language_model
    model = add_lora(model, recipe.policy.lora, 0)
    move(model, [p for p in model.network.parameters() if p.requires_grad])
    want = naive_kl(model.network, policy.language_model.network, held_out)
    assert abs(want) > 0.1
    assert measure_kl(attempt(), model, held_out, held_out.reference) == pytest.approx(want, rel=1e-3)


def test_the_held_out_loss_is_the_mean_over_tokens_of_the_chosen_responses(batches, policy):
    total = count = 0.0
    for example in batches[0]:
        ids, start = torch.tensor([[*example.prompt_ids, *example.responses[0].ids]]), len(example.prompt_ids)
        with torch.inference_mode():
            logprob = torch.log_softmax(policy.language_model.network(ids).logits[0, start - 1 : -1], dim=1)
        total -= float(logprob.gather(1, ids[0, start:, None]).sum())
        count += ids.shape[1] - start
    assert measure_loss(policy.language_model, batches[0]) == pytest.approx(total / count, rel=1e-5)
