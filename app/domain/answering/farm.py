"""The candidate farm: what answers with scores become as training data, and how far apart what is taken stands.

Of one conversation's answers, equal texts count once, with their best score. A prompt is one conversation, but for a question of
several turns: what is asked last stands behind the model's own earlier answers, so each draw may end a conversation of its own.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Annotated, Any

from pydantic import Field

from app.domain.dataset import ColumnMapping, Frozen, Shape
from app.domain.texts import Line

PER_ROW = 12  # responses of a ranked list; more are left out from the middle


class FarmShape(StrEnum):
    """What is taken of each prompt's answers."""

    BEST_WORST = "best_worst"
    PAIRS = "pairs"
    RANKED = "ranked"
    BEST = "best"
    RATED = "rated"


SHAPE_TITLES = {
    FarmShape.BEST_WORST: "Best against worst",
    FarmShape.PAIRS: "All pairs above a margin",
    FarmShape.RANKED: "Ranked list",
    FarmShape.BEST: "Best of n, for SFT",
    FarmShape.RATED: "All with ratings",
}


class FarmRequest(Frozen):
    """A data set to make of answers."""

    judge: Annotated[Line, Field(min_length=1, max_length=64)] = Field(description="The key of the judge whose scores count.")
    shape: FarmShape = Field(
        FarmShape.BEST_WORST,
        description="best_worst: one pair a prompt. pairs: every pair above the margin. ranked: a list with ratings. best: the "
        "best answer alone, for SFT. rated: every answer with its score.",
    )
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="Pairs whose scores differ by no more than this are left out."
    )
    name: Line = Field("", max_length=120, description="A name for the data set; empty: made from the answers' name.")


class Omission(StrEnum):
    """Why a prompt gives nothing."""

    UNSCORED = "unscored"
    ALONE = "alone"
    OWN_TURNS = "own_turns"
    MARGIN = "margin"


OMISSIONS = {
    Omission.UNSCORED: "no answer with a text and a score",
    Omission.ALONE: "only one answer, or all alike",
    Omission.OWN_TURNS: "several turns, and each answer follows other earlier answers: best of n and all with ratings take them",
    Omission.MARGIN: "no two answers whose scores lie further apart than the margin",
}


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer that may be taken; `earlier`: the model's answers before it, of a question of several turns."""

    draw: int
    text: str
    score: float
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True)
class Taken:
    """What one prompt gives: rows of the data set without the prompt, the pairs whose gaps are told, or why there is nothing."""

    rows: list[dict[str, Any]]
    pairs: list[tuple[ScoredAnswer, ScoredAnswer]]
    left_out: Omission | None = None


@dataclass(frozen=True)
class FarmFigures:
    """What a farm would hold, before it is made."""

    num_prompts: int  # that give something
    num_skipped: int
    left_out: dict[Omission, int]  # how many of these for which reason, the commonest first
    num_rows: int
    mean_gap: float | None
    gaps: list[float]
    mean_better_length: float | None  # characters
    mean_worse_length: float | None
    longer_wins: float | None  # share of the pairs whose better answer is the longer one


def gather_candidates(
    answers: Iterable[Mapping[str, Any]], scores: Mapping[tuple[int, int], float | None]
) -> dict[int, list[ScoredAnswer]]:
    """Return each prompt's different answers that have a score, best first."""
    best: dict[int, dict[tuple[str, ...], ScoredAnswer]] = {}
    for row in answers:
        score = scores.get((row["index"], row["draw"]))
        if score is None or not row["text"].strip():
            continue
        earlier = tuple(row.get("earlier") or ())
        known, key = best.setdefault(row["index"], {}), (*earlier, row["text"])
        if key not in known or known[key].score < score:
            known[key] = ScoredAnswer(row["draw"], row["text"], score, earlier)
    return {index: sorted(found.values(), key=lambda one: (-one.score, one.draw)) for index, found in best.items()}


def take(found: Sequence[ScoredAnswer], shape: FarmShape, margin: float) -> Taken:
    """Return what is taken of one prompt's candidates, which stand best first.

    Only answers that end the same conversation are set against each other; the best of all is one, whatever it follows.
    """
    conversations = [list(found)] if shape is FarmShape.BEST else split_conversations(found)
    taken = [TAKERS[shape](one, margin) for one in conversations if one]
    rows = [row for one in taken for row in one.rows]
    return Taken(rows, [pair for one in taken for pair in one.pairs], None if rows else explain(found))


def split_conversations(found: Sequence[ScoredAnswer]) -> list[list[ScoredAnswer]]:
    """Return the candidates by what they follow, each best first."""
    by_earlier: dict[tuple[str, ...], list[ScoredAnswer]] = {}
    for one in found:
        by_earlier.setdefault(one.earlier, []).append(one)
    return list(by_earlier.values())


def explain(found: Sequence[ScoredAnswer]) -> Omission:
    """Return why these candidates of a prompt give nothing."""
    if not found:
        return Omission.UNSCORED
    if any(len(one) > 1 for one in split_conversations(found)):
        return Omission.MARGIN
    return Omission.ALONE if len(found) == 1 else Omission.OWN_TURNS


def _follow(row: dict[str, Any], one: ScoredAnswer) -> dict[str, Any]:
    """Return a row with the earlier answers that stand before its responses, where there are any."""
    return {**row, "earlier": list(one.earlier)} if one.earlier else row


def _take_pairs(pairs: list[tuple[ScoredAnswer, ScoredAnswer]]) -> Taken:
    rows = [
        _follow({
            "chosen": better.text, "rejected": worse.text, "rating_chosen": better.score, "rating_rejected": worse.score,
            "draws": [better.draw, worse.draw],
        }, better)
        for better, worse in pairs
    ]  # fmt: skip
    return Taken(rows, pairs)


def _take_best_worst(found: Sequence[ScoredAnswer], margin: float) -> Taken:
    apart = len(found) > 1 and found[0].score - found[-1].score > margin
    return _take_pairs([(found[0], found[-1])] if apart else [])


def _take_all_pairs(found: Sequence[ScoredAnswer], margin: float) -> Taken:
    return _take_pairs(
        [(one, other) for k, one in enumerate(found) for other in found[k + 1 :] if one.score - other.score > margin]
    )


def _take_ranked(found: Sequence[ScoredAnswer], margin: float) -> Taken:
    if len(found) < 2 or found[0].score - found[-1].score <= margin:
        return Taken([], [])
    half = PER_ROW // 2
    kept = list(found) if len(found) <= PER_ROW else [*found[:half], *found[-half:]]
    row = {"responses": [one.text for one in kept], "ratings": [one.score for one in kept], "draws": [one.draw for one in kept]}
    return Taken([_follow(row, kept[0])], [(kept[0], kept[-1])])


def _take_best(found: Sequence[ScoredAnswer], margin: float) -> Taken:
    if len(found) > 1 and found[0].score - found[-1].score <= margin:
        return Taken([], [])
    pairs = [(found[0], found[-1])] if len(found) > 1 else []
    return Taken([_rate(found[0])], pairs)


def _take_rated(found: Sequence[ScoredAnswer], margin: float) -> Taken:
    apart = len(found) > 1 and found[0].score - found[-1].score > margin
    return Taken([_rate(one) for one in found], [(found[0], found[-1])] if apart else [])


def _rate(one: ScoredAnswer) -> dict[str, Any]:
    return _follow({"response": one.text, "rating": one.score, "draws": [one.draw]}, one)


TAKERS: dict[FarmShape, Callable[[Sequence[ScoredAnswer], float], Taken]] = {
    FarmShape.BEST_WORST: _take_best_worst,
    FarmShape.PAIRS: _take_all_pairs,
    FarmShape.RANKED: _take_ranked,
    FarmShape.BEST: _take_best,
    FarmShape.RATED: _take_rated,
}


def _map(shape: Shape, *roles: str, **options: bool) -> ColumnMapping:
    """Return a mapping whose columns are called as their roles are."""
    return ColumnMapping(shape=shape, columns={role: role for role in ("prompt", *roles)}, options=dict(options))


PAIRED = ("chosen", "rejected", "rating_chosen", "rating_rejected")
MAPPINGS: dict[FarmShape, ColumnMapping] = {
    FarmShape.BEST_WORST: _map(Shape.PAIR, *PAIRED),
    FarmShape.PAIRS: _map(Shape.PAIR, *PAIRED),
    FarmShape.RANKED: _map(Shape.RANKED, "responses", "ratings"),
    FarmShape.BEST: _map(Shape.RATED, "response", "rating"),
    FarmShape.RATED: _map(Shape.RATED, "response", "rating", group_by_prompt=True),
}


def describe(taken: Iterable[Taken]) -> FarmFigures:
    """Return the figures of what is taken of all prompts."""
    num_prompts = num_rows = 0
    left_out: Counter[Omission] = Counter()
    pairs: list[tuple[ScoredAnswer, ScoredAnswer]] = []
    for one in taken:
        num_prompts += bool(one.rows)
        num_rows += len(one.rows)
        left_out.update([one.left_out] if one.left_out else [])
        pairs += one.pairs
    gaps = [better.score - worse.score for better, worse in pairs]
    return FarmFigures(
        num_prompts=num_prompts,
        num_skipped=left_out.total(),
        left_out=dict(left_out.most_common()),
        num_rows=num_rows,
        mean_gap=fmean(gaps) if gaps else None,
        gaps=gaps,
        mean_better_length=fmean(len(better.text) for better, _ in pairs) if pairs else None,
        mean_worse_length=fmean(len(worse.text) for _, worse in pairs) if pairs else None,
        longer_wins=fmean(len(better.text) > len(worse.text) for better, worse in pairs) if pairs else None,
    )


def list_left_out(figures: FarmFigures) -> list[str]:
    """Return how many prompts give nothing and why, the commonest reason first."""
    return [
        f"{num} {'prompt has' if num == 1 else 'prompts have'} {OMISSIONS[reason]}" for reason, num in figures.left_out.items()
    ]
