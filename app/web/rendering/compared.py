"""How a comparison's figures look: models by each judge, pictures of gain against length and of runs' curves, texts marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.domain.comparing.figures import JudgeFigures, PairFigures
from app.domain.statistics.estimate import Estimate
from app.domain.statistics.strengths import Strength
from app.domain.weighting import name_scale
from app.web.rendering.difference import Piece, Unmarked, mark_differences
from app.web.rendering.fields import RECIPE_FIELDS, write

WIDTH, HEIGHT, MARGIN = 320.0, 200.0, 8.0
MOST_DOTS = 600
NAMES_A_RUN = ("name",)  # settings that differ and change nothing


@dataclass(frozen=True)
class ModelLine:
    """One model by one judge, against the model that the others are compared with."""

    name: str
    mean: Estimate | None
    by_length: Estimate | None
    strength: Strength | None
    pair: PairFigures | None  # with the baseline; None of itself, and where they never met
    gain: Estimate | None
    win_rate: Estimate | None
    controlled: Estimate | None
    is_better: bool


@dataclass(frozen=True)
class JudgeLines:
    """One judge with its lines."""

    judge: JudgeFigures
    lines: list[ModelLine]


@dataclass(frozen=True)
class Dots:
    """A picture of points, where its zeros are, and how far its axes reach to both sides of them."""

    points: list[tuple[float, float]]
    zero_x: float
    zero_y: float
    reach_x: float
    reach_y: float
    width: float = WIDTH
    height: float = HEIGHT


@dataclass(frozen=True)
class Curve:
    """One run's series as the points of a polyline."""

    name: str
    points: str
    last: float


@dataclass(frozen=True)
class Curves:
    """One series of several runs, over each other."""

    key: str
    title: str
    curves: list[Curve]
    low: float
    high: float
    last_step: int
    width: float = WIDTH
    height: float = HEIGHT / 2


@dataclass(frozen=True)
class MarkedAnswer:
    """One answer with its words marked where the pair's other answer has others."""

    name: str
    earlier: list[str]  # of a question of several turns
    pieces: list[Piece]
    finished: bool
    scores: Mapping[str, float | None]
    num_draws: int
    num_characters: int


@dataclass(frozen=True)
class MarkedPrompt:
    """A prompt with the answers of all models, those of the pair first."""

    index: int
    messages: list[dict[str, Any]]
    reference: str | None
    gain: float | None
    answers: list[MarkedAnswer]
    note: str


def tabulate(judges: Sequence[JudgeFigures], names: Sequence[str], baseline: int) -> list[JudgeLines]:
    """Return the models by each judge, each against the baseline; measures, which rank nobody, come last."""
    ordered = sorted(judges, key=lambda judge: not judge.ranks)
    return [JudgeLines(judge, [_line(judge, model, names, baseline) for model in range(len(names))]) for judge in ordered]


def _line(judge: JudgeFigures, model: int, names: Sequence[str], baseline: int) -> ModelLine:
    pair = judge.find_pair(model, baseline) if model != baseline else None
    turned = pair is not None and pair.first != model
    return ModelLine(
        name=names[model],
        mean=judge.means[model],
        by_length=judge.score_by_length[model],
        strength=judge.strengths[model] if judge.strengths else None,
        pair=pair,
        gain=_negative(pair.gain) if pair and turned else pair.gain if pair else None,
        win_rate=_other_side(pair.win_rate) if pair and turned else pair.win_rate if pair else None,
        controlled=_other_side(pair.length_controlled) if pair and turned else pair.length_controlled if pair else None,
        is_better=pair is not None and pair.winner == model,
    )


def _negative(found: Estimate) -> Estimate:
    low, high = (None if end is None else -end for end in (found.high, found.low))
    return Estimate(-found.value, low, high, found.standard_error)


def _other_side(found: Estimate | None) -> Estimate | None:
    if found is None:
        return None
    low, high = (None if end is None else 1 - end for end in (found.high, found.low))
    return Estimate(1 - found.value, low, high, found.standard_error)


def share_won(judge: JudgeFigures, model: int, other: int) -> Estimate | None:
    """Return the share of the prompts that one model wins against another, for the matrix of wins."""
    pair = judge.find_pair(model, other) if model != other else None
    if pair is None:
        return None
    return pair.win_rate if pair.first == model else _other_side(pair.win_rate)


def draw_dots(points: Sequence[tuple[float, float]]) -> Dots | None:
    """Return how gains lie over differences in length; of very many, evenly chosen ones. None without two."""
    shown = points[:: -(-len(points) // MOST_DOTS)] if points else []
    if len(shown) < 2:
        return None
    furthest_x, furthest_y = (max(abs(point[axis]) for point in shown) or 1.0 for axis in (0, 1))
    reach_x, reach_y = furthest_x / (1 - 2 * MARGIN / WIDTH), furthest_y / (1 - 2 * MARGIN / HEIGHT)  # at the picture's edges
    x = [WIDTH / 2 + point[0] / reach_x * WIDTH / 2 for point in shown]
    y = [HEIGHT / 2 - point[1] / reach_y * HEIGHT / 2 for point in shown]
    dots = [(round(one, 1), round(other, 1)) for one, other in zip(x, y, strict=True)]
    return Dots(dots, WIDTH / 2, HEIGHT / 2, reach_x, reach_y)


def draw_curves(key: str, title: str, series: Sequence[tuple[str, Sequence[tuple[int, float | None]]]]) -> Curves | None:
    """Return one series of several runs on the same axes; None where none has two points."""
    known = [(name, [(step, value) for step, value in points if value is not None]) for name, points in series]
    values = [value for _, points in known for _, value in points]
    last_step = max((points[-1][0] for _, points in known if points), default=0)
    if not last_step or max(len(points) for _, points in known) < 2:
        return None
    low, high = min(values), max(values)
    span, height = (high - low) or 1.0, HEIGHT / 2
    curves = [
        Curve(
            name,
            " ".join(
                f"{MARGIN + step / last_step * (WIDTH - 2 * MARGIN):.1f},"
                f"{height - MARGIN - (value - low) / span * (height - 2 * MARGIN):.1f}"
                for step, value in points
            ),
            points[-1][1],
        )
        for name, points in known
        if points
    ]
    return Curves(key, title, curves, low, high, last_step)


def differ(recipes: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not the same in all recipes: the form's label, and each one's value."""
    shown = [_flatten(name_scale(recipe)) for recipe in recipes]
    labels = {field.path: field.label for field in RECIPE_FIELDS}
    paths = dict.fromkeys(path for one in shown for path in one)
    return [
        (labels.get(path, path), values)
        for path in paths
        if path not in NAMES_A_RUN and len(set(values := [one.get(path, "–") for one in shown])) > 1
    ]


def _flatten(settings: Mapping[str, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in settings.items():
        path = f"{before}{name}"
        found.update(_flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: write(value) or "–"})
    return found


def mark(line: Mapping[str, Any], index: int, names: Sequence[str], pair: tuple[int, int], gain: float | None) -> MarkedPrompt:
    """Return a prompt with its answers, the pair's first and marked where they differ; of several draws the first."""
    texts = [drawn[0]["text"] if drawn else "" for drawn in line["answers"]]
    marked = mark_differences(texts[pair[0]], texts[pair[1]])
    pieces = {} if isinstance(marked, Unmarked) else dict(zip(pair, marked, strict=True))
    order = [*pair, *(model for model in range(len(names)) if model not in pair)]
    return MarkedPrompt(
        index=index,
        messages=line["messages"],
        reference=line["reference"],
        gain=gain,
        answers=[_show(names[model], line["answers"][model], pieces.get(model)) for model in order],
        note=marked.value if isinstance(marked, Unmarked) else "",
    )


def _show(name: str, drawn: Sequence[Mapping[str, Any]], pieces: list[Piece] | None) -> MarkedAnswer:
    first: Mapping[str, Any] = drawn[0] if drawn else {"text": "", "earlier": [], "finished": False, "scores": {}}
    return MarkedAnswer(
        name=name,
        earlier=first["earlier"],
        pieces=pieces if pieces is not None else [Piece(first["text"], False)],
        finished=first["finished"],
        scores=first["scores"],
        num_draws=len(drawn),
        num_characters=len(first["text"]),
    )
