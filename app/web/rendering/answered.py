"""Answers in the order that a page shows them: by prompt, by a judge's scores, by how far these lie apart; or searched for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Any

Scores = Mapping[tuple[int, int], float | None]


class AnswersSort(StrEnum):
    PROMPTS = "prompts"
    BEST = "best"
    WORST = "worst"
    SPREAD = "spread"
    LONGEST = "longest"


SORT_TITLES = {
    AnswersSort.PROMPTS: "As in the prompt set", AnswersSort.BEST: "Best first", AnswersSort.WORST: "Worst first",
    AnswersSort.SPREAD: "Widest apart first", AnswersSort.LONGEST: "Longest first",
}  # fmt: skip


@dataclass(frozen=True)
class AnsweredPrompt:
    """A prompt with its answers, best first by the chosen judge."""

    index: int
    messages: list[dict[str, str]]
    reference: str | None
    answers: list[dict[str, Any]]


def order_prompts(rows: Sequence[Mapping[str, Any]], scores: Scores, sort: AnswersSort) -> list[int]:
    """Return the prompts that have answers, in the order wanted; those without a score come last."""
    by_prompt: dict[int, list[float]] = {}
    for row in rows:
        value = float(len(row["text"])) if sort is AnswersSort.LONGEST else scores.get((row["index"], row["draw"]))
        found = by_prompt.setdefault(row["index"], [])
        if value is not None:
            found.append(value)
    if sort is AnswersSort.PROMPTS:
        return sorted(by_prompt)
    return sorted(by_prompt, key=lambda index: (not by_prompt[index], _rank(by_prompt[index], sort), index))


def _rank(values: Sequence[float], sort: AnswersSort) -> float:
    if not values:
        return 0.0
    if sort is AnswersSort.SPREAD:
        return min(values) - max(values)
    mean = fmean(values)
    return mean if sort is AnswersSort.WORST else -mean


def search(rows: Sequence[Mapping[str, Any]], prompts: Sequence[Mapping[str, Any]], words: str) -> set[int]:
    """Return the prompts that hold the words, in a message or in an answer, whatever their case."""
    wanted = words.casefold()
    found = {row["index"] for row in rows if wanted in row["text"].casefold()}
    return found | {p["index"] for p in prompts if any(wanted in m["content"].casefold() for m in p["messages"])}


def gather(
    shown: Sequence[int], prompts: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Scores],
    judge: str,
) -> list[AnsweredPrompt]:  # fmt: skip
    """Return these prompts with their answers and all scores, in this order."""
    wanted, by_index = set(shown), {prompt["index"]: prompt for prompt in prompts}
    answers: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if row["index"] in wanted:
            place = (row["index"], row["draw"])
            own = {key: found.get(place) for key, found in scores.items()}
            answers.setdefault(row["index"], []).append({**row, "scores": own, "rank": own.get(judge)})
    for found in answers.values():
        found.sort(key=lambda row: (row["rank"] is None, -(row["rank"] or 0.0), row["draw"]))
    return [
        AnsweredPrompt(index, by_index[index]["messages"], by_index[index]["reference"], answers.get(index, []))
        for index in shown
    ]
