"""Histograms that the server draws as SVG: where a picture needs no script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.domain.metrics import WEIGHT_EDGES
from app.domain.scoring import RewardCheck
from app.system.numbers import count, counted, number
from app.web.rendering.format import percent

WIDTH, HEIGHT, GAP, WIDEST = 360, 96, 0.12, 60
LEFT, RIGHT = 4, 4  # of the scale of shares


@dataclass(frozen=True)
class Bar:
    x: float
    width: float
    height: float
    tone: str
    title: str


@dataclass(frozen=True)
class Label:
    x: float
    text: str


@dataclass(frozen=True)
class Histogram:
    title: str
    text: str
    width: int
    bars: list[Bar]
    labels: list[Label]
    legend: bool = False


def lengths_of(facts: Mapping[str, Any]) -> list[Histogram]:
    """Return the length distributions of an audit: prompts, responses, and chosen beside rejected where there are pairs."""
    drawn = [
        draw("Prompts", [("", facts.get("prompt_chars") or {})]),
        draw("Responses", [("", facts.get("response_chars") or {})]),
    ]
    bias = facts.get("length_bias") or {}
    sides = [("chosen", bias.get("chosen_chars") or {}), ("rejected", bias.get("rejected_chars") or {})]
    return [histogram for histogram in (*drawn, draw("Chosen and rejected", sides)) if histogram is not None]


def ratings_of(facts: Mapping[str, Any]) -> Histogram | None:
    """Return how often each rating occurs, where there are few different ones."""
    values = {float(value): int(times) for value, times in ((facts.get("ratings") or {}).get("values") or {}).items()}
    if len(values) < 2:
        return None
    slot = min(WIDEST, WIDTH / len(values))
    highest = max(values.values())
    bars, labels = [], []
    for index, (value, times) in enumerate(sorted(values.items())):
        height = round(HEIGHT * times / highest, 1)
        bars.append(Bar(round((index + GAP / 2) * slot, 1), round(slot * (1 - GAP), 1), height, "", f"{value:g}: {count(times)}"))
        if index % (1 + len(values) // 12) == 0:
            labels.append(Label(round((index + 0.5) * slot, 1), f"{value:g}"))
    text = f"{counted(sum(values.values()), 'rating')}, {counted(len(values), 'different value')}"
    return Histogram("Ratings", text, WIDTH, bars, labels)


def weights_of(histograms: Sequence[Sequence[int]]) -> list[Histogram]:
    """Weights of batches over the bins of WEIGHT_EDGES, all drawn over the same of them, so that they can be compared."""
    used = [bin for counts in histograms for bin, times in enumerate(counts) if times]
    if not used:
        return []
    first, last = min(used), max(used)
    slot = min(WIDEST, WIDTH / (last - first + 1))
    # odd bins begin at whole powers of ten
    decades = [bin for bin in range(max(1, first), last + 1) if bin % 2 == 1]
    labels = [
        Label(round((bin - first) * slot, 1), f"{WEIGHT_EDGES[bin - 1]:g}")
        for bin in decades[:: 1 + len(decades) // 6]
        if bin > first
    ]
    return [
        Histogram(
            "",
            counted(sum(counts), "response"),
            WIDTH,
            [_weight_bar(counts, bin, first, slot) for bin in range(first, last + 1)],
            labels,
        )
        for counts in histograms
    ]


def _weight_bar(counts: Sequence[int], bin: int, first: int, slot: float) -> Bar:
    low, high = WEIGHT_EDGES[max(0, bin - 1)], WEIGHT_EDGES[min(bin, len(WEIGHT_EDGES) - 1)]
    place = f"w below {low:.2g}" if bin == 0 else f"w from {low:.2g}" + (f" to {high:.2g}" if bin < len(WEIGHT_EDGES) else "")
    height = max(1.0, HEIGHT * counts[bin] / max(counts)) if counts[bin] else 0.0
    x, width = round((bin - first + GAP / 2) * slot, 1), round(slot * (1 - GAP), 1)
    return Bar(x, width, round(height, 1), "", f"{place}: {counted(counts[bin], 'response')}")


def draw(title: str, series: list[tuple[str, Mapping[str, Any]]]) -> Histogram | None:
    """One histogram of one or two distributions over the same edges; None when there is nothing to draw."""
    counted = [(tone, facts) for tone, facts in series if facts.get("count")]
    if not counted:
        return None
    edges = counted[0][1]["edges"]
    used = [index for index in range(len(edges)) if any(facts["histogram"][index] for _, facts in counted)]
    first, last = used[0], used[-1]
    slot = min(WIDEST, WIDTH / (last - first + 1))
    highest = max(max(facts["histogram"]) for _, facts in counted)
    bars = []
    for rank, (tone, facts) in enumerate(counted):
        width = slot * (1 - GAP) / len(counted)
        for index in range(first, last + 1):
            times = facts["histogram"][index]
            x = (index - first) * slot + slot * GAP / 2 + rank * width
            height = max(1.0, HEIGHT * times / highest) if times else 0.0
            bars.append(
                Bar(round(x, 1), round(width, 1), round(height, 1), tone, f"{tone} {span(edges, index)}: {count(times)}".strip())
            )
    labels = [edge_label(edges[index], (index - first) * slot) for index in range(first, last + 1, 1 + (last - first) // 8)]
    facts = counted[0][1]
    text = f"median {count(facts['p50'])}, 90 % up to {count(facts['p90'])}, longest {count(facts['max'])}"
    return Histogram(title, text, WIDTH, bars, labels, legend=len(counted) > 1)


def span(edges: list[int], place: int) -> str:
    return f"{edges[place]} to {edges[place + 1] - 1}" if place + 1 < len(edges) else f"{edges[place]} and more"


def edge_label(edge: int, x: float) -> Label:
    """Return the number under its edge, or as far to the left as it can be whole."""
    return Label(max(round(x, 1), 4.0 * len(str(edge))), str(edge))


@dataclass(frozen=True)
class Share:
    """A measured share with its interval, placed on a scale from 0 to 1."""

    label: str
    tone: str
    at: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Agreement:
    """Shares below each other, to compare: which ranks the pairs as the labels do."""

    width: int
    left: int
    shares: list[Share]


def agreement_of(check: RewardCheck) -> Agreement | None:
    """Return the rewards' agreement with the labels beside the rule "longer is better"; None without pairs."""
    measured = [
        ("Reward", "policy", check.accuracy, check.low, check.high),
        ("Longer is better", "reference", check.length_accuracy, check.length_low, check.length_high),
    ]
    shares = [
        Share(label, tone, place(share), place(low), place(high), f"{percent(share)} ({percent(low)} to {percent(high)})")
        for label, tone, share, low, high in measured
        if share is not None
    ]
    return Agreement(WIDTH, LEFT, shares) if shares else None


def place(share: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * share, 1)


def rewards_of(check: RewardCheck) -> Histogram | None:
    """Return the rewards of all responses; None when they are all alike."""
    if len(check.counts) < 2 or not any(check.counts):
        return None
    slot, highest = WIDTH / len(check.counts), max(check.counts)
    bars = [
        Bar(
            round((index + GAP / 2) * slot, 1),
            round(slot * (1 - GAP), 1),
            round(max(1.0, HEIGHT * times / highest) if times else 0.0, 1),
            "",
            f"{number(check.edges[index], 2)} to {number(check.edges[index + 1], 2)}: {count(times)}",
        )
        for index, times in enumerate(check.counts)
    ]
    ends = (0, len(check.edges) // 2, len(check.edges) - 1)
    labels = [Label(min(max(edge * slot, 18), WIDTH - 18), number(check.edges[edge], 2)) for edge in ends]
    text = f"mean {number(check.mean)}, standard deviation {number(check.std)}, over {counted(check.num_responses, 'response')}"
    return Histogram("Rewards", text, WIDTH, bars, labels)
