"""A preview's numbers as a page shows them: a table for each preset and batch size, a row for each λ, small pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from app.domain.events import FindingRaised
from app.domain.metrics import WEIGHT_EDGES
from app.domain.preview.weights import PreviewCell, PreviewResult, Suggestion
from app.domain.scoring import RewardCheck
from app.system.numbers import count, number
from app.web.rendering.format import exact, percent
from app.web.rendering.histogram import Bar
from app.web.rendering.wording import option_text

WIDTH, HEIGHT, GAP = 176, 40, 1.0
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class CellRow:
    """One λ: its numbers, its histogram, and where it leads."""

    cell: PreviewCell
    temperature: str  # λ as one would type it
    bars: list[Bar]
    text: str  # the histogram in words
    chance: str  # how much of a weight is chance of which prompts meet, in sentences
    use_url: str  # the launch form, filled with it
    is_near_target: bool


@dataclass(frozen=True)
class Table:
    """One preset at one batch size, with the λ that is suggested for it."""

    id: str
    preset: str
    batch_size: int
    rows: list[CellRow]
    suggestion: Suggestion | None
    suggested: str  # its λ as one would type it
    use_url: str


@dataclass(frozen=True)
class Tables:
    """A whole preview. `one` : where a weight of 1 stands in the histograms."""

    tables: list[Table]
    findings: list[FindingRaised]
    check: RewardCheck
    num_batches: int
    num_responses: int
    seconds: float
    target_ess: float
    dataset_id: str
    tune_url: str  # the launch form, for fine-tuning on all of the data's responses first
    width: int = WIDTH
    height: int = HEIGHT
    one: float = 0.0
    ticks: tuple[tuple[float, str], ...] = ()


def tables_of(
    result: PreviewResult, *, scoring_id: str, dataset_id: str, batch_size: int, overrides: Mapping[str, str | bool] | None = None
) -> Tables:
    """Return the tables of a result; `batch_size` is the scored one, `overrides` are carried on into the launch form."""
    groups: dict[tuple[str, int], list[PreviewCell]] = {}
    for cell in result.cells:
        groups.setdefault((str(cell.preset), cell.batch_size), []).append(cell)
    suggested = {(str(suggestion.preset), suggestion.batch_size): suggestion for suggestion in result.suggestions}

    def use(preset: str, size: int, temperature: str) -> str:
        query = {"scoring": scoring_id, "weights.preset": preset, "weights.lambda": temperature}
        if size != batch_size:
            query["training.batch_size"] = str(size)
        changed = {f"weights.{name}": as_typed(value) for name, value in (overrides or {}).items()}
        return f"/runs/new?{urlencode(query | changed)}"

    tables = []
    for (preset, size), cells in groups.items():
        one = suggested.get((preset, size))
        temperature = exact(round_lambda(one.lambda_)) if one and one.lambda_ is not None else ""
        nearest = nearest_to(cells, one.target_ess) if one else None
        rows = [row_of(cell, use(preset, size, exact(cell.lambda_)), cell is nearest) for cell in cells]
        title = option_text("weights.preset", preset)
        tables.append(
            Table(f"{preset}-{size}", title, size, rows, one, temperature, use(preset, size, temperature) if temperature else "")
        )
    return Tables(
        tables=tables,
        findings=result.findings,
        check=result.check,
        num_batches=result.num_batches,
        num_responses=result.num_responses,
        seconds=result.seconds,
        target_ess=result.suggestions[0].target_ess if result.suggestions else 0.0,
        dataset_id=dataset_id,
        tune_url=f"/runs/new?{urlencode({'scoring': scoring_id, 'method': 'sft', 'weights.responses': 'both'})}",
        one=place_of(1.0),
        ticks=tuple((place_of(10.0**power), power_of_ten(power)) for power in (-8, -4, 0)),
    )


def row_of(cell: PreviewCell, use_url: str, is_near_target: bool) -> CellRow:
    shares = {key: cell.metrics.get(f"weight/{key}") for key in ("ess_share", "share_chosen")}
    total = max(1, sum(cell.histogram))
    middle = next((index for index in range(len(cell.histogram)) if 2 * sum(cell.histogram[: index + 1]) >= total), 0)
    text = f"λ {exact(cell.lambda_)}: half of the weights {span(middle)}, effective sample size {percent(shares['ess_share'])}"
    return CellRow(cell, exact(cell.lambda_), bars_of(cell.histogram), text, tell_chance(cell), use_url, is_near_target)


def tell_chance(cell: PreviewCell) -> str:
    """Return how much of a weight is chance, of one batch plan and of the means over all that a run makes, in sentences."""
    if cell.partner_share is None:
        told = "How much is chance of which prompts meet in a batch can't be told: other batches would have to be scored in full."
    else:
        told = f"Of a weight's variance {percent(cell.partner_share)} is chance: which prompts happen to meet in a batch."
    if cell.plans == 1:
        return told
    left = "" if cell.partner_share is None else f", in which about {percent(cell.partner_share_left)} is chance"
    return f"{told} These are the weights of one batch plan; the run takes the means over {cell.plans}{left}."


def nearest_to(cells: list[PreviewCell], target: float) -> PreviewCell | None:
    """Return the λ of the grid whose effective sample size is nearest to the wanted one."""
    known = [cell for cell in cells if cell.metrics.get("weight/ess_share") is not None]
    return min(known, key=lambda cell: abs((cell.metrics["weight/ess_share"] or 0.0) - target), default=None)


def bars_of(counts: list[int]) -> list[Bar]:
    """Return the bars of a weight histogram, each with what it counts; bins that hold anything are never quite flat."""
    slot, highest = WIDTH / max(1, len(counts)), max(counts, default=0)
    bars = []
    for index, times in enumerate(counts):
        if times:
            height = max(1.5, HEIGHT * times / highest)
            title = f"{count(times)} {'response' if times == 1 else 'responses'}: w {span(index)}"
            bars.append(Bar(round(index * slot + GAP / 2, 1), round(slot - GAP, 1), round(height, 1), "", title))
    return bars


def span(place: int) -> str:
    """Return the bin of the weight histogram in words."""
    if place == 0:
        return f"below {power_of_ten(-8)}"
    if place == len(WEIGHT_EDGES):
        return f"above {number(WEIGHT_EDGES[-1])}"
    return f"{number(WEIGHT_EDGES[place - 1], 2)} to {number(WEIGHT_EDGES[place], 2)}"


def place_of(weight: float) -> float:
    """Return where a weight that is an edge stands on the histogram's axis."""
    place = min(range(len(WEIGHT_EDGES)), key=lambda edge: abs(WEIGHT_EDGES[edge] - weight)) + 1
    return round(place * WIDTH / (len(WEIGHT_EDGES) + 1), 1)


def power_of_ten(power: int) -> str:
    return "1" if power == 0 else f"10{str(power).translate(SUPERSCRIPTS)}"


def round_lambda(value: float) -> float:
    """Three digits: more would pretend."""
    return float(f"{value:.3g}")


def as_typed(value: str | bool) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
