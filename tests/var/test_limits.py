"""What each form of the weights tends to on responses that the reference has drawn, by tables (docs/method.md)."""

import math

import pytest
import torch

from tests.var.tables import LAMBDA, World, effective_share, expected_weights, limit_of
from worker.var.draws import log_partition
from worker.var.weights import WeightChoices

torch.set_num_threads(1)

FORMS = {
    "paper": WeightChoices("posterior", "batch", "sum", "score", mean_one=False, lambda_=LAMBDA),
    "length_normalised": WeightChoices("posterior", "batch", "mean", "score", lambda_=LAMBDA),
    "within_prompt": WeightChoices("ratio", "prompt", "sum", "reuse", mean_one=False, lambda_=LAMBDA),
    "reward, by batch": WeightChoices("reward", lambda_=LAMBDA),
    "reward, one scale": WeightChoices("reward", mean_one=False, lambda_=LAMBDA),
}


@pytest.fixture(scope="module")
def world() -> World:
    return World.draw(0)


@pytest.fixture(scope="module")
def limits(world):
    """Each form's limit on pairs drawn from the reference, in batches of eight prompts."""
    return {
        name: limit_of(world.reference, expected_weights(world, choices, each=2, contexts=32)) for name, choices in FORMS.items()
    }


def test_one_scale_is_exact_and_every_other_form_misses_the_optimum_by_this_much(world, limits):
    missed = {name: world.miss(limit_XY) for name, limit_XY in limits.items()}
    assert missed["reward, one scale"] < 1e-9
    assert 0.03 < missed["reward, by batch"] < 0.12 < missed["paper"] < missed["within_prompt"]
    assert 0.08 < missed["length_normalised"] < missed["paper"]


def test_the_remaining_pairs_of_form_and_scope_end_here(world, limits):
    """Over the batch the ratio is as biased as a scale by batch; within a pair the posterior moves no further than the ratio."""
    missed = {}
    for form, scope, norm in (("ratio", "batch", "sum"), ("posterior", "prompt", "sum"), ("posterior", "prompt", "mean")):
        reward = "score" if scope == "batch" else "reuse"
        choices = WeightChoices(form, scope, norm, reward, mean_one=False, lambda_=LAMBDA)
        missed[form, norm] = world.miss(limit_of(world.reference, expected_weights(world, choices, each=2, contexts=32)))
    assert 0.03 < missed["ratio", "sum"] < 0.12
    assert missed["posterior", "mean"] == pytest.approx(world.miss(limits["within_prompt"]), rel=0.1)
    assert missed["posterior", "sum"] > world.miss(limits["within_prompt"])


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_draws_are_exact_whatever_their_number_and_however_prompts_differ(offset):
    """Ẑ(x) knows nothing of the response that is weighed, so E[w | x, y] is e^(r/λ) times a factor of the prompt."""
    world, chance = World.draw(0, offset=offset), torch.Generator().manual_seed(0)
    for num in (2, 16):
        weight_XY = torch.zeros_like(world.rewards)
        for _ in range(20):
            drawn_XK = torch.multinomial(world.reference.exp(), num, replacement=True, generator=chance)
            log_z_X = log_partition(world.rewards.gather(1, drawn_XK) / LAMBDA)
            weight_XY += (world.rewards / LAMBDA - log_z_X[:, None]).exp()
        assert world.miss(limit_of(world.reference, weight_XY)) < 1e-9


def test_at_equal_divergence_one_scale_leaves_no_reward_and_the_paper_most(world, limits):
    regret = {name: world.regret(limit_XY) for name, limit_XY in limits.items()}
    assert abs(regret["reward, one scale"]) < 1e-9
    assert 0 < regret["reward, by batch"] < regret["length_normalised"] < regret["paper"]
    assert regret["paper"] > 0.05


def test_the_posterior_counts_the_reference_twice_on_what_it_has_drawn_itself(world):
    """Its weights are π* over the candidates, so drawn once from each, it is right; drawn from π_ref, it tends to π_ref·π*."""
    posterior_XY = world.optimum  # all responses of a prompt as candidates: w = π*
    even_XY = torch.zeros_like(posterior_XY)
    assert world.miss(limit_of(even_XY, posterior_XY)) < 1e-9
    assert world.miss(limit_of(world.reference, posterior_XY)) > 0.2


@pytest.mark.parametrize("scale", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_pairs_within_a_prompt_move_no_further_than_ln_2_less_a_half(seed, scale):
    """E[w | x, y] = Σ_y' π_ref(y'|x) 2σ((r − r')/λ), enumerated: w is at most 2, and on average over y' 2F(r) at most."""
    world = World.draw(seed)
    gap_XYY = (world.rewards[:, :, None] - world.rewards[:, None, :]) / (scale * LAMBDA)
    weight_XY = (2 * torch.sigmoid(gap_XYY) * world.reference.exp()[:, None, :]).sum(dim=2)
    moved = world.divergence(limit_of(world.reference, weight_XY))
    assert 0 < moved < math.log(2) - 0.5


@pytest.mark.parametrize("others", [15, 191])
def test_the_scale_of_a_finite_data_set_biases_by_one_over_its_size(world, others):
    """w = N e^(r/λ)/Σ e^(r/λ) over the data set holds the response itself: what that costs falls with the data."""
    chance = torch.Generator().manual_seed(0)
    term_XY, weight_XY = (world.rewards / LAMBDA).exp(), torch.zeros_like(world.rewards)
    for _ in range(100):
        prompt_N = torch.randint(len(term_XY), (others,), generator=chance)
        response_N = torch.multinomial(world.reference.exp()[prompt_N], 1, generator=chance)[:, 0]
        weight_XY += term_XY / (term_XY + term_XY[prompt_N, response_N].sum())
    missed = world.miss(limit_of(world.reference, weight_XY))
    assert (0.03 < missed < 0.12) if others == 15 else missed < 2e-3


def test_from_another_policys_data_no_form_ends_at_the_optimum_of_the_reference(world):
    """With y from μ the limit is μ·E[w], whatever w: where μ leaves a response out, no weight brings it back."""
    source_XY = torch.log_softmax(world.reference.flip(1), dim=1)
    for name, choices in FORMS.items():
        weight_XY = expected_weights(world, choices, each=2, contexts=16, source_XY=source_XY)
        limit_XY = limit_of(source_XY, weight_XY)
        assert world.regret(limit_XY) > 0.1, name
    exact_XY = limit_of(source_XY, (world.rewards / LAMBDA).exp())  # the optimum of μ as reference
    assert torch.allclose(exact_XY, torch.softmax(source_XY + world.rewards / LAMBDA, dim=1))


def test_prompts_of_unequal_difficulty_share_the_data_unevenly_by_the_reward_alone_and_evenly_by_draws():
    shares = {"reward": [], "draws": []}
    for offset in (0.0, 1.0, 2.0):
        world = World.draw(4, offset=offset)
        shares["reward"].append(effective_share((world.log_z - world.log_z.max()).exp()))
        chance = torch.Generator().manual_seed(0)
        response_XK = torch.multinomial(world.reference.exp(), 16, replacement=True, generator=chance)
        log_z_X = torch.logsumexp(world.rewards.gather(1, response_XK) / LAMBDA, dim=1) - math.log(16)
        shares["draws"].append(effective_share((world.log_z - log_z_X).exp()))
    assert shares["draws"] == pytest.approx([shares["draws"][0]] * 3)  # an offset of a prompt cancels
    assert shares["reward"][0] > 2 * shares["reward"][1] > 2 * shares["reward"][2]
    assert shares["draws"][1] > 2 * shares["reward"][1]
