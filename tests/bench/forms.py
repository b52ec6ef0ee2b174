"""Which form of the weights, when prompts differ in difficulty: a log-linear policy that shares its parameters between prompts.

    python -m tests.bench.forms

A stand-in for the help desk, where everything is exact: π_θ(y|x) ∝ π_ref(y|x) e^(φ(x,y)·θ) over 40 responses, K = 4 of which the
reference draws for each of 160 training prompts; rewards have a part that φ cannot say, and an offset of the prompt. The weighted
likelihood is maximised under a small ridge, and judged on 512 other prompts by enumeration: the reward above the reference's at
equal KL, between the λ of each world. Each form sees the same responses; differences are paired over worlds, 95 % intervals.
Legend: X prompts, Y responses, F features, K responses of a prompt.
"""

import math
import sys
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev

import torch
from torch import Tensor

from tests.var.tables import World
from worker.var.candidates import StackedCandidates, WeightChoices
from worker.var.stacks import log_mean_weight, weigh
from worker.var.terms import make_terms

NUM_TRAIN, NUM_TEST, NUM_RESPONSES, WIDTH = 160, 512, 40, 5
EACH, BATCH, DRAWS, RIDGE = 4, 8, 16, 3e-3
LAMBDAS = (0.15, 0.3, 0.5, 0.8, 1.3, 2.0, 4.0, 8.0)
FORMS = {
    "length_normalised": WeightChoices("posterior", "batch", "mean", "score"),
    "reward, by batch": WeightChoices("reward"),
    "reward, one scale": WeightChoices("reward", mean_one=False),
    "draws": WeightChoices("ratio", "draws", cross_reward="reuse", mean_one=False),
}


@dataclass(frozen=True)
class Side:
    """Prompts of one side: features [X, Y, F], and a table of them."""

    feature: Tensor
    table: World


def make_sides(seed: int, offset: float, spread: float) -> tuple[Side, Side]:
    """Training and test prompts of one world; `spread`: of the responses' log lengths."""
    chance = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=chance, dtype=torch.float64)

    of_response, num_tokens = normal(NUM_RESPONSES, WIDTH), (3 + spread * normal(NUM_RESPONSES)).exp().round().clamp(min=2).long()
    num_features = WIDTH + WIDTH * WIDTH
    taste, habit = normal(num_features) / math.sqrt(num_features), normal(num_features) / math.sqrt(num_features)

    def side(num: int) -> Side:
        of_prompt = normal(num, WIDTH)
        both = of_prompt[:, None, :, None] * of_response[None, :, None, :]
        feature = torch.cat([of_response.expand(num, -1, -1), both.flatten(2)], dim=2)
        reward = feature @ taste + 0.5 * normal(num, NUM_RESPONSES) + offset * normal(num, 1)
        return Side(feature, World(torch.log_softmax(feature @ habit, dim=1), reward, num_tokens))

    return side(NUM_TRAIN), side(NUM_TEST)


def weigh_data(side: Side, response: Tensor, draws: Tensor, choices: WeightChoices, lambda_: float) -> Tensor:
    """Return the weights of the data's responses [X, K], in batches of eight prompts, with mean 1 where they have one scale."""
    world, num = side.table, len(response) // BATCH
    prompt_SB = torch.arange(len(response)).view(num, BATCH)
    own_M = torch.arange(BATCH).repeat_interleave(EACH)
    response_SM = response[prompt_SB].flatten(1)
    stack = StackedCandidates(
        own_SM=own_M.expand(num, -1),
        logprob_SBC=world.reference[prompt_SB[:, :, None], response_SM[:, None, :]],
        num_tokens_SM=world.num_tokens[response_SM],
        reward_SBC=world.rewards[prompt_SB[:, :, None], response_SM[:, None, :]],
        draw_reward_SBK=world.rewards.gather(1, draws)[prompt_SB],
        draw_SM=torch.full_like(response_SM, -1),
    )
    weighed = weigh(make_terms(stack, choices), lambda_)
    weight_SM = weighed.weight_SM if choices.mean_one else (weighed.log_weight_SM - log_mean_weight([weighed])).exp()
    return weight_SM.view(-1, EACH)


def fit(side: Side, response: Tensor, weight: Tensor) -> Tensor:
    """Return θ of the largest weighted likelihood under the ridge: [F]."""
    theta = torch.zeros(side.feature.shape[2], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], lr=1, max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logprob = torch.log_softmax(side.table.reference + side.feature @ theta, dim=1).gather(1, response)
        value = -(weight * logprob).mean() + RIDGE * theta.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return theta.detach()


def trace(seed: int, offset: float, spread: float) -> dict[str, list[tuple[float, float]]]:
    """Return each form's points over λ on the test prompts of one world: KL, and the reward above the reference's."""
    train, test = make_sides(seed, offset, spread)
    chance = torch.Generator().manual_seed(1000 + seed)
    source = train.table.reference.exp()
    response, draws = (torch.multinomial(source, num, replacement=True, generator=chance) for num in (EACH, DRAWS))
    before = test.table.reward(test.table.reference.exp())
    found: dict[str, list[tuple[float, float]]] = {}
    for name, choices in FORMS.items():
        for lambda_ in LAMBDAS:
            theta = fit(train, response, weigh_data(train, response, draws, choices, lambda_))
            policy = torch.softmax(test.table.reference + test.feature @ theta, dim=1)
            found.setdefault(name, []).append((test.table.divergence(policy), test.table.reward(policy) - before))
    return found


def read_at(points: list[tuple[float, float]], wanted: float) -> float:
    """Return the reward at a KL, straight over its root between the points; beyond them NaN."""
    ordered = sorted((math.sqrt(kl), gain) for kl, gain in [(0.0, 0.0), *points])
    for (low, below), (high, above) in pairwise(ordered):
        if low <= math.sqrt(wanted) <= high:
            return below + (above - below) * (math.sqrt(wanted) - low) / max(high - low, 1e-12)
    return math.nan


def main(seeds: int = 5) -> None:
    torch.set_num_threads(1)
    print(f"| offset | lengths | KL | {' | '.join(FORMS)} | one scale − length_normalised | draws − length_normalised |")
    for offset in (0.0, 1.0, 2.0):
        for spread in (0.0, 0.8):
            worlds = [trace(seed, offset, spread) for seed in range(seeds)]
            for wanted in (0.1, 0.2, 0.3, 0.45):
                gains = {name: [read_at(world[name], wanted) for world in worlds] for name in FORMS}
                means = " | ".join(f"{fmean(values):.3f}".replace("nan", "–") for values in gains.values())
                gaps = [_compare(gains[name], gains["length_normalised"]) for name in ("reward, one scale", "draws")]
                lengths = "spread" if spread else "even"
                print(f"| {offset:g} | {lengths} | {wanted:g} | {means} | {' | '.join(gaps)} |", flush=True)


def _compare(left: list[float], right: list[float]) -> str:
    gaps = [a - b for a, b in zip(left, right, strict=True)]
    if any(map(math.isnan, gaps)):  # a world does not get so far
        return "–"
    return f"{fmean(gaps):+.3f} ± {2.776 * stdev(gaps) / math.sqrt(len(gaps)):.3f}"  # Student's t of five worlds


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
