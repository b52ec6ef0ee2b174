"""What the figures of a run come to, in a sentence: better, worse, or not told apart, with what it would take to say more.

    tell_verdict(event.metrics, "test", [(prompt.policy_reward, prompt.reference_reward) for prompt in event.prompts])

Nothing is called better or worse whose 95 % interval holds equality. Where each prompt's rewards are known, a permutation test
must agree as well (app.domain.statistics.paired).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

from app.domain.statistics.estimate import LEVEL, Z
from app.domain.statistics.paired import FEWEST_TOLD_APART, POWER, exchange_test, needed_prompts
from app.system.numbers import number, percent, signed

Metrics = Mapping[str, float | None]
Stage = Literal["test", "eval"]
Pairs = Sequence[tuple[float, float]]
SETS = {"test": "test", "eval": "validation"}
WANTED = Z + NormalDist().inv_cdf(POWER)
GUESSING = 0.5


class Verdict(NamedTuple):
    """`tone`: good, bad, or open where nothing is told apart."""

    tone: Literal["good", "bad", "open"]
    headline: str
    text: str


class Figure(NamedTuple):
    """A figure with the ends of its interval, and over how many it is."""

    value: float
    low: float
    high: float
    num: float

    def differs_from(self, equal: float) -> bool:
        return not self.low <= equal <= self.high

    def count_needed(self, equal: float) -> int | None:
        """Return how many observations tell this value from `equal`; None where it is equal."""
        effect = self.value - equal
        if not effect or not self.num:
            return None
        spread = (self.high - self.low) / (2 * Z) * math.sqrt(self.num)
        return max(FEWEST_TOLD_APART, math.ceil((WANTED * spread / effect) ** 2 + Z * Z / 2))


def tell_verdict(metrics: Metrics, stage: Stage, pairs: Pairs = ()) -> Verdict | None:
    """Return the verdict of these figures of the test set, or so far of the validation set; None where nothing was measured."""
    if gain := find_figure(metrics, stage, "reward_gain", "num_prompts"):
        return _of_answers(gain, metrics, stage, pairs)
    for name, counted, what in (
        ("pair_accuracy", "num_pairs", "pairs"),
        ("preference_accuracy", "num_preferences", "preferences"),
    ):
        if accuracy := find_figure(metrics, stage, name, counted):
            return _of_preferences(accuracy, metrics, stage, what)
    loss = metrics.get(f"{stage}/loss")
    if loss is None:
        return None
    text = f"The held-out loss is {number(loss)} per token of the chosen responses, and nothing else was measured."
    return Verdict("open", "Not compared with the reference", text)


def find_figure(metrics: Metrics, stage: Stage, name: str, counted: str) -> Figure | None:
    """Return a figure that was measured; without an interval it says nothing, so it reaches everywhere."""
    value, low, high, num = (metrics.get(f"{stage}/{part}") for part in (name, f"{name}_low", f"{name}_high", counted))
    if value is None:
        return None
    return Figure(value, -math.inf if low is None else low, math.inf if high is None else high, num or 0)


def _of_answers(gain: Figure, metrics: Metrics, stage: Stage, pairs: Pairs) -> Verdict:
    differences = [policy - reference for policy, reference in pairs]
    told = gain.differs_from(0) and (not differences or exchange_test(differences) <= 1 - LEVEL)
    numbers = f"{signed(gain.value)} reward{_interval(gain, signed)}{_over(gain, stage, 'prompts')}{_wins(metrics, stage)}."
    if told:
        better = gain.value > 0
        headline = "Better than the reference" if better else "Worse than the reference"
        return Verdict("good" if better else "bad", headline, numbers + (_length_control(metrics, stage) if better else ""))
    needed = needed_prompts(differences) if differences else gain.count_needed(0) if math.isfinite(gain.low) else None
    return Verdict("open", "Not told apart from the reference", numbers + _needed(needed, gain, "prompts"))


def _of_preferences(accuracy: Figure, metrics: Metrics, stage: Stage, what: str) -> Verdict:
    by_reward = what == "pairs"
    margin = find_figure(metrics, stage, "pair_margin" if by_reward else "preference_margin", "")
    unit = "" if by_reward else " nats"
    by = f", by a margin of {signed(margin.value)}{unit}{_interval(margin, signed)}" if margin else ""
    numbers = f"Right in {percent(accuracy.value)}{_interval(accuracy, percent)}{_over(accuracy, stage, what)}{by}."
    unjudged = "" if by_reward else " No reward model judged its answers."
    if accuracy.differs_from(GUESSING):
        better = accuracy.value > GUESSING
        headline = "Tells chosen from rejected" if better else "Prefers what was rejected"
        return Verdict("good" if better else "bad", headline, numbers + unjudged)
    needed = accuracy.count_needed(GUESSING) if math.isfinite(accuracy.low) else None
    return Verdict("open", "Not told apart from guessing", numbers + _needed(needed, accuracy, what) + unjudged)


def _wins(metrics: Metrics, stage: Stage) -> str:
    rate, kl = find_figure(metrics, stage, "win_rate", ""), metrics.get(f"{stage}/kl")
    wins = f", {percent(rate.value)} of them won{_interval(rate, percent)}" if rate else ""
    return wins + (f", at a KL of {number(kl)} nats" if kl is not None else "")


def _length_control(metrics: Metrics, stage: Stage) -> str:
    """Return a warning where the win rate at equal length is not told from one half."""
    rate = find_figure(metrics, stage, "length_win_rate", "")
    if rate is None or rate.low > GUESSING:
        return ""
    return f" At equal length it wins {percent(rate.value)}{_interval(rate, percent)}: length alone may be what is liked."


def _over(figure: Figure, stage: Stage, what: str) -> str:
    what = what.removesuffix("s") if figure.num == 1 else what
    return f" on {figure.num:.0f} {SETS[stage]} {what}" if figure.num else f" on the {SETS[stage]} {what}"


def _needed(needed: int | None, figure: Figure, what: str) -> str:
    """Return what it would take; a difference that more than the present number could show isn't talked down."""
    if needed is None:
        return ""
    if needed <= figure.num:
        return f" Such a difference needs more than these {figure.num:.0f} {what} to be sure of."
    return f" To show such a difference would take about {needed:,} {what}.".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _interval(figure: Figure, write: Callable[[float], str]) -> str:
    if not math.isfinite(figure.low):
        return ""
    return f" (95 % interval {write(figure.low)} to {write(figure.high)})"
