"""The final figures of a run in words, each with its 95 % interval: the same for the page and the terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from app.system.numbers import number, percent, signed

Metrics = Mapping[str, float | None]


class FinalFigure(NamedTuple):
    """A figure of the test set; `interval` is empty where one can't be told."""

    key: str
    label: str
    value: str
    interval: str
    note: str


def share(value: float | None) -> str:
    return percent(value, 1)


# What is told first decides; then what it costs, and what it was paid with.
_TOLD: tuple[tuple[str, str, str, Callable[[float | None], str]], ...] = (
    ("reward_gain", "Reward gain", "policy − reference", signed),
    ("win_rate", "Win rate", "against the reference", share),
    ("kl", "KL from the reference", "nats per answer", number),
    ("preference_accuracy", "Preferences told apart", "by log π_θ − log π_ref", share),
    ("preference_margin", "Preference margin", "nats, chosen − rejected", signed),
    ("pair_accuracy", "Pairs told apart", "by the reward", share),
    ("pair_margin", "Margin of pairs", "reward, chosen − rejected", signed),
    ("loss", "Held-out loss", "per token of chosen responses", number),
    ("pair_loss", "Held-out loss", "per pair", number),
    ("length_policy", "Length of answers", "tokens, policy", number),
    ("unfinished_policy", "Unfinished answers", "of the policy", share),
)


# The three that lead a run's page, by what was measured: with a reward model, with preferences alone, of a reward model.
_LEADING = (
    ("reward_gain", "win_rate", "kl"),
    ("preference_accuracy", "preference_margin", "kl"),
    ("pair_accuracy", "pair_margin", "pair_loss"),
    ("loss", "kl", "length_policy"),
)


def write_final(metrics: Metrics, stage: str = "test") -> list[FinalFigure]:
    """Return the figures there are, in the order in which they are told; those of the validation set with the stage `eval`."""
    return [
        FinalFigure(f"{stage}/{name}", label, write(value), _interval(metrics, f"{stage}/{name}", write), note)
        for name, label, note, write in _TOLD
        if (value := metrics.get(f"{stage}/{name}")) is not None
    ]


def pick_leading(figures: Sequence[FinalFigure]) -> list[FinalFigure]:
    """Return the three figures that say most, of those there are."""
    known = {figure.key.partition("/")[2]: figure for figure in figures}
    names = next((names for names in _LEADING if names[0] in known), ())
    return [known[name] for name in names if name in known]


def write_size(metrics: Metrics) -> str:
    """Return what the figures are over: `128 test prompts and 128 preferences`."""
    counted = (("num_prompts", "test prompts"), ("num_preferences", "preferences"), ("num_pairs", "test pairs"))
    told = [f"{value:.0f} {what}" for name, what in counted if (value := metrics.get(f"test/{name}"))]
    return " and ".join(told) or "the test set"


def _interval(metrics: Metrics, key: str, write: Callable[[float | None], str]) -> str:
    low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
    return "" if low is None or high is None else f"{write(low)} to {write(high)}"
