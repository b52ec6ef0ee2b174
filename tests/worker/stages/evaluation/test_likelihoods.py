"""Log-probabilities and divergences of answers: against plain transformers, and against the sum over all answers there are."""

import itertools
import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.worker.workshop import make_recipe
from worker.models.adapter import adapt
from worker.models.generate import Sampling, generate
from worker.models.load import load_policy
from worker.models.lora import add_lora
from worker.models.prompts import PromptFormat
from worker.stages.evaluation.answers import plain_sampling
from worker.stages.evaluation.figures import divergence
from worker.stages.evaluation.likelihoods import DrawLikelihoods, measure_draws, measure_responses, measure_tokens
from worker.stages.examples import Lengths, Prepared
from worker.stages.prepare import Ground
from worker.stages.scoring.sources import ReferenceSource

NUM_TOKENS, LONGEST, END = 5, 3, 0
REPETITIONS, NUM_ASKED = 500, 64


def check() -> None:
    """Nobody wants to stop."""


@torch.no_grad()
def move(parameters, size: float = 0.05) -> None:
    """The same change for both ways to hold a policy."""
    generator = torch.Generator().manual_seed(5)
    for parameter in parameters:
        parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


@pytest.fixture
def pairs(batches):
    return [(example.prompt_ids, example.responses[0].ids) for example in batches[0]]


@pytest.fixture
def source(workshop, policy):
    ground = Ground(workshop.policy(), PromptFormat.choose(policy.tokenizer), Lengths(64, 48, 12), Prepared([], [], 0, 0), [])
    return ReferenceSource(SimpleNamespace(recipe=make_recipe(), spec=SimpleNamespace(device="cpu")), ground)


@torch.inference_mode()
def naive(network, reference, prompt_ids, ids) -> DrawLikelihoods:
    """The whole table of both networks, for one answer alone."""
    whole, start = torch.tensor([[*prompt_ids, *ids]]), len(prompt_ids)
    log_p, log_q = (torch.log_softmax(one(whole).logits[0, start - 1 : -1].double(), dim=1) for one in (network, reference))
    kls = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    return DrawLikelihoods(*(table[range(len(ids)), list(ids)].tolist() for table in (log_p, log_q)), kls.tolist())


def assert_close(have, want) -> None:
    for one, other in zip(have, want, strict=True):
        for column, expected in zip(one, other, strict=True):
            assert column == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_an_untrained_policy_has_no_divergence_from_its_reference(workshop, source, pairs):
    model = load_policy(workshop.policy(), dtype="float32", device="cpu").language_model
    with source.beside(model) as as_reference:
        assert {kl for draw in measure_draws(model, as_reference, pairs, check) for kl in draw.kls} == {0.0}


def test_full_fine_tuning_diverges_from_the_weights_it_started_from(workshop, source, pairs, policy):
    model = load_policy(workshop.policy(), dtype="float32", device="cpu").language_model
    move(model.network.parameters())
    with source.beside(model) as as_reference:
        have = measure_draws(model, as_reference, pairs, check)
    assert_close(have, [naive(model.network, policy.language_model.network, *pair) for pair in pairs])
    assert sum(have[0].kls) > 0.1
    assert [draw.policy for draw in have] == measure_tokens(model, pairs, check)


def test_lora_diverges_from_itself_without_the_adapter(workshop, source, pairs, policy):
    model = load_policy(workshop.policy(), dtype="float32", device="cpu").language_model
    model = add_lora(model, make_recipe(policy={"adaptation": "lora"}).policy.lora, 0)
    move([parameter for parameter in model.network.parameters() if parameter.requires_grad])
    with source.beside(model) as as_reference:
        have = measure_draws(model, as_reference, pairs, check)
    assert_close(have, [naive(model.network, policy.language_model.network, *pair) for pair in pairs])
    assert sum(have[0].kls) > 0.1
    assert any(parameter.requires_grad for parameter in model.network.parameters())


def test_responses_are_looked_at_whole(batches, policy):
    found = measure_responses(policy.language_model, batches[0], check)
    for example, sums in zip(batches[0], found, strict=True):
        for response, total in zip(example.responses, sums, strict=True):
            network = policy.language_model.network
            want = naive(network, network, example.prompt_before(response), response.ids)
            assert total == pytest.approx(sum(want.policy), rel=1e-4)


def test_a_wish_to_stop_is_heeded_between_groups(pairs, policy):
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        measure_tokens(policy.language_model, pairs, stop)


# ----- a world so small that every answer can be named -----


@pytest.fixture(scope="module")
def world():
    """A policy and its reference over five tokens, of which the first ends an answer."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=NUM_TOKENS, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=16, initializer_range=0.6, eos_token_id=END, bos_token_id=None,
    )  # fmt: skip
    reference = LlamaForCausalLM(config).eval()
    network = LlamaForCausalLM(config).eval()
    network.load_state_dict(reference.state_dict())
    move(network.parameters(), 0.25)
    return adapt(network), adapt(reference)


def all_answers() -> list[tuple[int, ...]]:
    words = range(1, NUM_TOKENS)
    ended = [(*start, END) for size in range(LONGEST) for start in itertools.product(words, repeat=size)]
    return ended + list(itertools.product(words, repeat=LONGEST))


@pytest.fixture(scope="module")
def population(world):
    """For each of many prompts: the probability of every answer, and the divergence summed along it."""
    model, reference = world
    prompts, answers = list(itertools.product(range(1, NUM_TOKENS), repeat=3)), all_answers()
    pairs = [(prompt, answer) for prompt in prompts for answer in answers]
    draws = measure_draws(model, lambda: nullcontext(reference), pairs, check)
    log_p, log_q, kl = (
        np.array([[sum(getattr(draws[i * len(answers) + k], name)) for k in range(len(answers))] for i in range(len(prompts))])
        for name in ("policy", "reference", "kls")
    )
    return prompts, np.exp(log_p), log_p - log_q, kl


def test_its_mean_over_all_answers_is_the_divergence_of_the_two_distributions(population):
    _, probability, log_ratio, kl = population
    assert probability.sum(axis=1) == pytest.approx(np.ones(len(probability)), abs=1e-4)
    exact = (probability * log_ratio).sum(axis=1)  # KL(π_θ‖π_ref) by its definition
    assert (probability * kl).sum(axis=1) == pytest.approx(exact, abs=1e-4)
    assert exact.mean() > 0.1
    # Over the same draws, the exact divergences of the tokens spread less than the sampled log ratios.
    assert (probability * (kl - exact[:, None]) ** 2).sum() < 0.5 * (probability * (log_ratio - exact[:, None]) ** 2).sum()


@pytest.mark.parametrize("shown", [(0.7, 1.0), (1.0, 0.9), (0.0, 1.0), (1.0, 1.0)])
def test_tempered_greedy_or_cut_samples_leave_the_divergence_as_it_is(world, population, shown):
    model, reference = world
    prompts, probability, log_ratio, _ = population
    asked = [prompts[k % len(prompts)] for k in range(8 * len(prompts))]
    drawn = generate(model, asked, plain_sampling(Sampling(LONGEST, *shown, seed=11, end_ids=frozenset({END}))))
    draws = measure_draws(model, lambda: nullcontext(reference), list(zip(asked, drawn, strict=True)), check)
    estimate = divergence([sum(draw.kls) for draw in draws])
    exact = (probability * log_ratio).sum(axis=1).mean()
    assert abs(estimate.value - exact) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.1 * exact


def test_its_intervals_hold_the_truth_as_often_as_they_say(population):
    """500 evaluations of 64 prompts each, drawn from all there are, with one answer of the policy to each."""
    _, probability, log_ratio, kl = population
    truth = (probability * log_ratio).sum(axis=1).mean()
    chance = np.random.default_rng(0)
    edges = np.cumsum(probability / probability.sum(axis=1, keepdims=True), axis=1)
    held = 0
    for repetition in range(REPETITIONS):
        rows = chance.integers(0, len(kl), NUM_ASKED)
        answers = (edges[rows] < chance.random(NUM_ASKED)[:, None]).sum(axis=1).clip(max=kl.shape[1] - 1)
        found = divergence([float(value) for value in kl[rows, answers]])
        held += found.low <= truth <= found.high
        assert repetition or math.isclose(found.value, kl[rows, answers].mean())
    assert 0.93 <= held / REPETITIONS <= 0.97
