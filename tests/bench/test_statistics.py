"""Simulations with known truth of intervals and paired comparisons: `make bench ARGS=tests/bench/test_statistics.py`."""

import math
import random
from collections.abc import Callable

import pytest

from app.domain.statistics.agreement import krippendorff_alpha
from app.domain.statistics.estimate import Estimate
from app.domain.statistics.length_control import length_controlled_win_rate
from app.domain.statistics.paired import compare_paired, paired_gain, win_rate
from app.domain.statistics.strengths import find_strengths
from tests.domain.statistics.test_agreement import vote
from tests.domain.statistics.test_paired import power_of
from tests.domain.statistics.test_strengths import plant

pytestmark = pytest.mark.bench
REPETITIONS = 500

Draw = Callable[[random.Random], float]
NOISE: dict[str, tuple[Draw, float]] = {  # and their means
    "normal": (lambda chance: chance.gauss(0, 1), 0.0),
    "heavy tails": (lambda chance: chance.gauss(0, 1) / math.sqrt(chance.gammavariate(2.5, 0.4)), 0.0),
    "skewed": (lambda chance: chance.gammavariate(2, 1), 2.0),
    "ratings": (lambda chance: chance.choice((1, 2, 2, 3, 3, 3, 4, 5)), 2.875),
}


def covers(found: Estimate, truth: float) -> bool:
    return found.low - 1e-12 <= truth <= found.high + 1e-12


def tell(what: str, num: int, share: float) -> None:
    print(f"{what}, {num} prompts: {share:.1%}")


@pytest.mark.parametrize("num", [24, 64, 128])
@pytest.mark.parametrize("kind", NOISE)
def test_the_gains_interval_covers_the_truth(kind: str, num: int) -> None:
    chance, (draw, _) = random.Random(f"{kind}{num}"), NOISE[kind]
    covered = 0
    for seed in range(REPETITIONS):
        hardness = [chance.gauss(0, 3) for _ in range(num)]
        first, second = [h + 0.4 + draw(chance) for h in hardness], [h + draw(chance) for h in hardness]
        covered += covers(paired_gain(first, second, seed=seed), 0.4)
    tell(f"gain, {kind}: covered", num, covered / REPETITIONS)
    assert 0.93 <= covered / REPETITIONS <= 0.975


@pytest.mark.parametrize("num", [32, 64, 128])
@pytest.mark.parametrize(("wins", "ties"), [(0.5, 0.0), (0.5, 0.2), (0.4, 0.4), (0.75, 0.1)])
def test_the_win_rates_interval_covers_the_truth(wins: float, ties: float, num: int) -> None:
    chance, covered = random.Random(f"{wins}{ties}{num}"), 0
    for _ in range(4 * REPETITIONS):
        drawn = [chance.random() for _ in range(num)]
        covered += covers(
            win_rate([1.0 if d < wins else 0.0 if d < wins + ties else -1.0 for d in drawn], [0.0] * num), wins + ties / 2
        )
    tell(f"win rate {wins} and {ties} tied: covered", num, covered / 4 / REPETITIONS)
    assert 0.93 <= covered / 4 / REPETITIONS <= 0.97


@pytest.mark.parametrize("num", [32, 128])
@pytest.mark.parametrize("skill", [0.0, 0.8])
def test_the_length_controlled_interval_covers_the_truth(skill: float, num: int) -> None:
    chance, covered = random.Random(f"{skill}{num}"), 0
    for seed in range(REPETITIONS):
        longer = [chance.gauss(15, 30) for _ in range(num)]
        spread = math.sqrt(sum((one - sum(longer) / num) ** 2 for one in longer) / num)
        chances = [1 / (1 + math.exp(-(skill + math.tanh(one / spread)))) for one in longer]
        won = [float(chance.random() < p) for p in chances]
        covered += covers(
            length_controlled_win_rate(won, [0.5] * num, longer, [0.0] * num, seed=seed), 1 / (1 + math.exp(-skill))
        )
    tell(f"length-controlled, θ = {skill}: covered", num, covered / REPETITIONS)
    assert 0.93 <= covered / REPETITIONS <= 0.98


@pytest.mark.parametrize("num", [24, 64, 128])
def test_equal_models_are_told_apart_in_a_twentieth_at_most(num: int) -> None:
    shares = []
    for kind, (draw, _) in NOISE.items():
        chance, apart = random.Random(f"equal{kind}{num}"), 0
        for seed in range(4 * REPETITIONS):
            first, second = [draw(chance) for _ in range(num)], [draw(chance) for _ in range(num)]
            apart += compare_paired(first, second, seed=seed).told_apart
        shares.append(apart / 4 / REPETITIONS)
        tell(f"equal models, {kind}: told apart", num, shares[-1])
    assert sum(shares) / len(shares) <= 0.05
    assert max(shares) <= 0.06  # within two standard errors of the simulation


@pytest.mark.parametrize("num", [32, 64, 128])
@pytest.mark.parametrize("effect", [0.2, 0.35, 0.5])
def test_planted_differences_are_found_as_often_as_the_power_says(effect: float, num: int) -> None:
    chance, apart = random.Random(f"{effect}{num}"), 0
    for seed in range(REPETITIONS):
        differences = [effect + chance.gauss(0, 1) for _ in range(num)]
        apart += compare_paired(differences, [0.0] * num, seed=seed).told_apart
    tell(f"planted {effect} deviations: told apart (power {power_of(effect, num):.1%})", num, apart / REPETITIONS)
    assert apart / REPETITIONS == pytest.approx(power_of(effect, num), abs=0.06)


@pytest.mark.parametrize("num", [60, 200])
def test_the_strengths_intervals_cover_the_truth(num: int) -> None:
    planted, covered, apart = [0.6, 0.1, -0.2, -0.5], 0, 0
    for seed in range(REPETITIONS // 2):
        found = find_strengths(4, plant(planted, num, seed, ties=0.0), seed=seed)
        covered += sum(covers(one.value, truth) for one, truth in zip(found, planted, strict=True))
        equal = find_strengths(4, plant([0, 0, 0, 0], num, seed, ties=0.1), seed=seed)
        apart += not all(one.may_be_best for one in equal)
    tell("strengths: covered", num, covered / 4 / (REPETITIONS // 2))
    tell("equal strengths: told apart", num, apart / (REPETITIONS // 2))
    assert 0.92 <= covered / 4 / (REPETITIONS // 2) <= 0.98
    assert apart / (REPETITIONS // 2) <= 0.06


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_alphas_interval_covers_the_planted_agreement(missing: float) -> None:
    covered = sum(covers(krippendorff_alpha(vote(120, 3, 0.7, seed, missing), seed=seed), 0.49) for seed in range(REPETITIONS))
    tell(f"α with {missing:.0%} missing: covered", 120, covered / REPETITIONS)
    assert 0.92 <= covered / REPETITIONS <= 0.98
