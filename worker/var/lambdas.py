"""The search for the temperature λ that gives a wanted effective sample size, over scores that are there already."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from worker.var.candidates import Candidates, StackedCandidates, WeightChoices, stack
from worker.var.stacks import effective_sample_sizes, weigh
from worker.var.terms import make_terms

SMALLEST_LAMBDA, LARGEST_LAMBDA, LAMBDAS_PER_DECADE = 1e-4, 1e5, 2
LAMBDA_BATCHES = 128  # batches that λ is looked for on, evenly spread over the plan
LARGEST_EXPONENT = 80.0  # as app.domain.findings.LARGEST_EXPONENT, beyond which exp(r/λ) leaves float32
STACKED_PLACES = 1 << 18  # of [S, B, M]: what fits a processor's cache


class TargetUnreachable(ValueError):
    """No λ gives the wanted effective sample size."""


def find_lambda(
    batches: Sequence[Candidates],
    choices: WeightChoices,
    target_ess: float,
    *,
    reward_mean: float = 0.0,
    reward_std: float = 1.0,
    tolerance: float = 1e-3,
    smallest_lambda: float = SMALLEST_LAMBDA,
) -> float:
    """Return the λ whose mean effective sample size over the batches is `target_ess`; see find_stacked_lambda."""
    return find_stacked_lambda(
        stack_alike(batches), choices, target_ess, reward_mean=reward_mean, reward_std=reward_std, tolerance=tolerance,
        smallest_lambda=smallest_lambda,
    )  # fmt: skip


def find_stacked_lambda(
    stacks: Sequence[StackedCandidates],
    choices: WeightChoices,
    target_ess: float,
    *,
    reward_mean: float = 0.0,
    reward_std: float = 1.0,
    tolerance: float = 1e-3,
    smallest_lambda: float = SMALLEST_LAMBDA,
) -> float:
    """Return the λ whose mean effective sample size over the batches is `target_ess` (a share of the responses in the loss).

    The share need not grow with λ for every form (a summed log π_ref takes over when λ is large), so the λ axis is walked
    first, from small to large, and the first crossing is bisected on log λ until the share is within `tolerance`.
    Raises TargetUnreachable, with the shares that can be had, when there is no crossing. No λ below `smallest_lambda` is tried.
    """
    scaled = replace(choices, mean_one=True)
    terms = [make_terms(part, scaled, reward_mean, reward_std) for part in stacks]

    def excess(log_lambda: float) -> float:
        total, count = 0.0, 0
        for part in terms:
            weighed = weigh(part, math.exp(log_lambda))
            num_entering_S = weighed.entering_SM.sum(dim=1)
            share_S = effective_sample_sizes(weighed.weight_SM) / num_entering_S.clamp(min=1)
            total, count = total + float(share_S.sum()), count + int((num_entering_S > 0).sum())
        return total / count - target_ess

    low, high = math.log(smallest_lambda), math.log(LARGEST_LAMBDA)
    num_steps = max(1, round((high - low) / math.log(10) * LAMBDAS_PER_DECADE))
    grid = [low + (high - low) * k / num_steps for k in range(num_steps + 1)]
    seen: list[float] = []
    for a, b in pairwise(grid):
        seen = seen or [excess(a)]
        seen.append(excess(b))
        if seen[-2] * seen[-1] <= 0:
            return math.exp(_bisect(excess, a, b, seen[-2], tolerance))
    least, most = min(seen) + target_ess, max(seen) + target_ess
    raise TargetUnreachable(
        f"weights.target_ess {target_ess:g} can't be reached: over all λ the effective sample size lies between {least:.3g} and "
        f"{most:.3g}. Choose a target in between, or give weights.lambda."
    )


def refuse_extreme(lambda_: float, largest_reward: float) -> None:
    """Raise TargetUnreachable for a λ at which max |r/λ| is beyond LARGEST_EXPONENT: there one response takes all, whatever λ."""
    if largest_reward > LARGEST_EXPONENT * lambda_:
        raise TargetUnreachable(
            f"This effective sample size needs λ = {lambda_:.3g}, at which the largest |r/λ| is {largest_reward / lambda_:.3g}, "
            f"above {LARGEST_EXPONENT:g}: choose a larger share, or give weights.lambda."
        )


def fall_back(choices: WeightChoices, reward_std: float) -> float:
    """Return the λ of the rewards' scale: their standard deviation, which is 1 where the weights see z-scores."""
    return 1.0 if choices.reward_norm == "zscore" or reward_std == 0 else reward_std


def stack_alike(batches: Sequence[Candidates]) -> list[StackedCandidates]:
    """Return the batches in stacks of like sizes, so that little is only filled up; their order is lost."""
    ordered = sorted(batches, key=lambda batch: batch.reward_BM.shape[::-1])
    stacks, waiting = [], list[Candidates]()
    for batch in reversed(ordered):  # largest first: it sets the shape of its stack
        num_prompts, num_responses = (waiting or [batch])[0].reward_BM.shape
        if waiting and (len(waiting) * num_prompts * num_responses > STACKED_PLACES or 2 * len(batch.own_M) < num_responses):
            stacks.append(stack(waiting))
            waiting = []
        waiting.append(batch)
    return [*stacks, *([stack(waiting)] if waiting else [])]


def _bisect(excess: Callable[[float], float], a: float, b: float, excess_a: float, tolerance: float) -> float:
    while True:
        middle = (a + b) / 2
        excess_middle = excess(middle)
        if abs(excess_middle) <= tolerance or b - a < 1e-9:
            return middle
        if (excess_middle > 0) == (excess_a > 0):
            a = middle
        else:
            b = middle
