"""What stands beside the launch form: data, tokens, memory, time, reward check and weights in a line each; what was changed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import Session

from app.domain.errors import InvalidInput, NotFound
from app.domain.recipe import Method, Recipe
from app.domain.sweep import SweepRequest, expand
from app.store.database import Database
from app.store.datasets import get_dataset
from app.store.files.files import Files
from app.store.metrics import MeasuredSpeed, list_speeds
from app.store.tables import Dataset
from app.system.numbers import count, counted, number
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentUser, read_apart
from app.web.pages.launch.lengths import LaunchLengths, look_at_lengths
from app.web.pages.launch.outlook import Panel, look
from app.web.recipes import STARTING_VALUES, as_asked, methods_of, read_order, read_planned, split_lambdas
from app.web.rendering.environment import Context, render
from app.web.rendering.fields import RECIPE_FIELDS
from app.web.rendering.format import duration, percent, size
from app.web.rendering.wording import LABELS, option_text

router = APIRouter()

# What a launch is of, rather than how it goes: no chips.
CHOSEN = frozenset(
    {"name", "method", "dataset", "policy.model", "reward.source", "reward.model", "reward.judge", "reward.accept_inverted"}
)
PLAIN = {field.path: as_asked(field).value for field in RECIPE_FIELDS} | STARTING_VALUES


@dataclass(frozen=True)
class SummaryLine:
    """One line of the summary; `tone` "warn" or "bad" where it should be looked at; `link`: address and words."""

    name: str
    text: str
    tone: str = ""
    link: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Chip:
    """A setting with another value than a new form has."""

    path: str
    label: str
    value: str
    plain: str

    @property
    def id(self) -> str:
        return self.path.replace(".", "-")


@dataclass(frozen=True, kw_only=True)
class Summary:
    lines: list[SummaryLine]
    chips: list[Chip]


@dataclass(frozen=True, kw_only=True)
class SummaryPart(Context):
    template = "launch/_summary.html"

    summary: Summary


@router.post("/runs/new/summary")
async def show_summary(request: Request, database: CurrentDatabase, files: CurrentFiles, user: CurrentUser) -> HTMLResponse:
    """The summary of these settings, from what is known without asking a worker."""
    async with request.form(max_fields=300, max_files=0) as form:
        values = {name: str(value) for name, value in form.items()}
    return await read_apart(request, show, request, database, files, user.id, values)


def show(request: Request, database: Database, files: Files, owner_id: str, values: Mapping[str, str]) -> HTMLResponse:
    with database.reading() as session:
        panel, lengths = look(session, owner_id, values), look_at_lengths(session, files, owner_id, values)
        return render(request, SummaryPart(summary=summarise(session, owner_id, values, panel, lengths)))


def summarise(session: Session, owner_id: str, values: Mapping[str, str], panel: Panel, lengths: LaunchLengths) -> Summary:
    """Return the summary of these form values."""
    try:
        dataset = get_dataset(session, owner_id, values.get("dataset", ""))
    except NotFound:
        dataset = None
    order, recipes = read_runs(values)
    lines = [
        tell_data(dataset, values), tell_tokens(lengths), tell_memory(panel), *tell_runs(order, recipes),
        tell_time(session, owner_id, dataset, recipes),
    ]  # fmt: skip
    if values.get("method", Method.VAR) == Method.VAR:
        lines += [tell_check(panel), tell_weights(panel, values, order)]
    return Summary(lines=lines, chips=list_chips(values))


def tell_data(dataset: Dataset | None, values: Mapping[str, str]) -> SummaryLine:
    if dataset is None:
        return SummaryLine("Data", "choose a data set")
    most = values.get("max_examples", "").strip()
    used = f", at most {most} of them" if most.isdecimal() and int(most) < dataset.num_examples else ""
    return SummaryLine("Data", f"{dataset.name}: {counted(dataset.num_examples, 'example')}{used}")


def tell_tokens(lengths: LaunchLengths) -> SummaryLine:
    if not lengths.texts:
        waiting = {"asked": "a worker counts them", "refused": "the texts can't be read, see Lengths"}
        return SummaryLine("Tokens", waiting.get(lengths.state, "known once data and policy are chosen"))
    told = [
        f"{texts.name.lower()} to {count(texts.quantiles[2])}"
        + (f", {percent(texts.share_cut, 1)} cut" if texts.share_cut else ", none cut" if texts.share_cut == 0 else "")
        for texts in lengths.texts
    ]
    is_much = any(texts.share_cut is not None and texts.share_cut > 0.05 for texts in lengths.texts)
    return SummaryLine("Tokens", f"99 of 100 {'; '.join(told)}", "warn" if is_much else "")


def tell_memory(panel: Panel) -> SummaryLine:
    memory = panel.memory
    if memory.plan is None:
        return SummaryLine(
            "Memory", "known once a policy is chosen" if "Choose" in memory.sentence else "known once a worker has the policy"
        )
    held = (
        f" of {size(memory.limit_bytes)} on {memory.device}"
        if memory.limit_bytes
        else "; no worker has a GPU, so the machine's own memory counts"
    )
    text = f"about {size(memory.plan.predicted_bytes)} at the peak{held}"
    return SummaryLine("Memory", text, "bad" if memory.is_over or memory.shortage else "")


def read_runs(values: Mapping[str, str]) -> tuple[SweepRequest | None, list[Recipe]]:
    """Return the sweep that these values ask for, if it is one, and the recipes of all runs; of values that can't be launched yet
    the one recipe that they would make, or none.
    """
    try:
        order = read_order(values)
        return (order, [one.recipe for one in expand(order)]) if isinstance(order, SweepRequest) else (None, [order])
    except InvalidInput:
        pass
    try:
        return None, [read_planned(values)]
    except InvalidInput:
        return None, []


def tell_runs(order: SweepRequest | None, recipes: Sequence[Recipe]) -> list[SummaryLine]:
    """Return how many runs a launch makes, where it is more than one."""
    if order is None or len(recipes) < 2:
        return []
    num_seeds = len(order.fields.get("training.seed", [0])) if order.experiment else 1
    each = f": {counted(len(recipes) // num_seeds, 'setting')} with {num_seeds} seeds each" if num_seeds > 1 else ", in one sweep"
    return [SummaryLine("Runs", f"{len(recipes)}{each}")]


def tell_time(session: Session, owner_id: str, dataset: Dataset | None, recipes: Sequence[Recipe]) -> SummaryLine:
    """Return how long training may take, from the newest finished runs that are most like these."""
    if not recipes:
        return SummaryLine("Time", "known once data and policy are chosen")
    speeds = list_speeds(session, owner_id, recipes[0].policy.model)
    known = [(recipe, speed) for recipe in recipes if (speed := pick_speed(speeds, recipe)) is not None]
    if not known:
        return SummaryLine("Time", "no measurement yet: no finished run trains this policy")
    if dataset is None:
        return SummaryLine("Time", "known once data is chosen")
    steps = [count_steps(recipe, dataset.num_examples) for recipe, _ in known]
    seconds = [
        num_steps * speed.seconds_per_step * recipe.training.batch_size / batch_size_of(speed)
        for num_steps, (recipe, speed) in zip(steps, known, strict=True)
    ]
    first = known[0][1]
    of_all = (
        ""
        if len(recipes) == 1
        else f" for {'all' if len(known) == len(recipes) else f'{len(known)} of them'}, one after the other"
    )
    each, where = number(sum(seconds) / sum(steps), 2), f" on {first.device}" if first.device else ""
    text = f"about {duration(sum(seconds))}{of_all}: {counted(sum(steps), 'step')} at {each} s, as measured{where} in"
    return SummaryLine("Time", text, link=(f"/runs/{first.run_id}", first.name))


def pick_speed(speeds: Sequence[MeasuredSpeed], recipe: Recipe) -> MeasuredSpeed | None:
    """Return the newest that trains the same way: by method and by what of the policy is trained."""
    wanted = (recipe.method, recipe.policy.adaptation)
    alike = [one for one in speeds if (one.recipe.get("method", Method.VAR), one.recipe["policy"]["adaptation"]) == wanted]
    return alike[0] if alike else None


def batch_size_of(speed: MeasuredSpeed) -> int:
    return int(speed.recipe["training"]["batch_size"])


def count_steps(recipe: Recipe, num_examples: int) -> int:
    """Return how many optimizer steps the recipe takes on this many examples."""
    if recipe.training.steps:
        return recipe.training.steps
    used = min(num_examples, recipe.max_examples or num_examples)
    trained = used - int(used * recipe.evaluation.share)
    return max(1, math.ceil((recipe.training.epochs or 1) * trained / recipe.training.batch_size))


def tell_check(panel: Panel) -> SummaryLine:
    if panel.verdict is None:
        return SummaryLine("Reward check", "known once the pairs are scored")
    return SummaryLine("Reward check", panel.verdict.title, panel.verdict.tone if panel.verdict.tone in ("warn", "bad") else "")


def tell_weights(panel: Panel, values: Mapping[str, str], order: SweepRequest | None) -> SummaryLine:
    typed = [f"{value:g}" for value in order.lambdas] if order and order.experiment and order.lambdas else split_lambdas(values)
    if typed:
        return SummaryLine("Temperature", f"λ {', '.join(typed)}")
    share, found = values.get("weights.target_ess", "").strip(), panel.suggestion
    known = f": λ {number(found.lambda_)} on these scores" if found and found.lambda_ is not None else ""
    return SummaryLine("Effective sample size", f"{share or 'not set'} of each batch{known}")


def list_chips(values: Mapping[str, str]) -> list[Chip]:
    """Return the settings that differ from those of a new form, of those that the method reads."""
    method = values.get("method") or Method.VAR
    chips = []
    for field in RECIPE_FIELDS:
        plain, value = PLAIN[field.path], values.get(field.path, PLAIN[field.path]).strip()
        if field.path in CHOSEN or value == plain or method not in methods_of(field.path):
            continue
        words = option_text(field.path, value) if field.options and value else value or "none"
        chips.append(Chip(field.path, LABELS.get(field.path, field.label), words, plain))
    return chips
