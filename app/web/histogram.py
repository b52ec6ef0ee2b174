"""Histograms that the server draws as SVG: where a picture needs no script."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.web.format import count, counted

WIDTH, HEIGHT, GAP, WIDEST = 360, 96, 0.12, 60


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
    """The length distributions of an audit: prompts, responses, and chosen beside rejected where there are pairs."""
    drawn = [
        draw("Prompts", [("", facts.get("prompt_chars") or {})]),
        draw("Responses", [("", facts.get("response_chars") or {})]),
    ]
    bias = facts.get("length_bias") or {}
    sides = [("chosen", bias.get("chosen_chars") or {}), ("rejected", bias.get("rejected_chars") or {})]
    return [one for one in (*drawn, draw("Chosen and rejected", sides)) if one is not None]


def ratings_of(facts: Mapping[str, Any]) -> Histogram | None:
    """How often each rating occurs, where there are few different ones."""
    values = {float(value): int(times) for value, times in ((facts.get("ratings") or {}).get("values") or {}).items()}
    if len(values) < 2:
        return None
    slot = min(WIDEST, WIDTH / len(values))
    highest = max(values.values())
    bars, labels = [], []
    for place, (value, times) in enumerate(sorted(values.items())):
        height = round(HEIGHT * times / highest, 1)
        bars.append(Bar(round((place + GAP / 2) * slot, 1), round(slot * (1 - GAP), 1), height, "", f"{value:g}: {count(times)}"))
        if place % (1 + len(values) // 12) == 0:
            labels.append(Label(round((place + 0.5) * slot, 1), f"{value:g}"))
    text = f"{counted(sum(values.values()), 'rating')}, {counted(len(values), 'different value')}"
    return Histogram("Ratings", text, WIDTH, bars, labels)


def draw(title: str, series: list[tuple[str, Mapping[str, Any]]]) -> Histogram | None:
    """One histogram of one or two distributions over the same edges; None when there is nothing to draw."""
    counted = [(tone, facts) for tone, facts in series if facts.get("count")]
    if not counted:
        return None
    edges = counted[0][1]["edges"]
    used = [place for place in range(len(edges)) if any(facts["histogram"][place] for _, facts in counted)]
    first, last = used[0], used[-1]
    slot = min(WIDEST, WIDTH / (last - first + 1))
    highest = max(max(facts["histogram"]) for _, facts in counted)
    bars = []
    for rank, (tone, facts) in enumerate(counted):
        width = slot * (1 - GAP) / len(counted)
        for place in range(first, last + 1):
            times = facts["histogram"][place]
            x = (place - first) * slot + slot * GAP / 2 + rank * width
            height = max(1.0, HEIGHT * times / highest) if times else 0.0
            bars.append(
                Bar(round(x, 1), round(width, 1), round(height, 1), tone, f"{tone} {span(edges, place)}: {count(times)}".strip())
            )
    labels = [Label(round((place - first + 0.5) * slot, 1), span_label(edges, place)) for place in range(first, last + 1)]
    facts = counted[0][1]
    text = f"median {count(facts['p50'])}, 90 % below {count(facts['p90'])}, longest {count(facts['max'])}"
    return Histogram(title, text, WIDTH, bars, labels, legend=len(counted) > 1)


def span(edges: list[int], place: int) -> str:
    return f"{edges[place]} to {edges[place + 1] - 1}" if place + 1 < len(edges) else f"{edges[place]} and more"


def span_label(edges: list[int], place: int) -> str:
    edge = edges[place]
    return f"{edge // 1024}k" if edge >= 1024 else str(edge)
