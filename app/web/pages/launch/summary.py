"""What stands beside the launch form: data, tokens, memory, time, reward check and weights in a line each; what was changed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import Session

from app.domain.errors import InvalidInput, NotFound
from app.domain.recipe import Method, Recipe
from app.store.database import Database
from app.store.datasets import get_dataset
from app.store.files.files import Files
from app.store.metrics import MeasuredSpeed, list_speeds
from app.store.tables import Dataset
from app.system.numbers import count, counted, number
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentUser, read_apart
from app.web.pages.launch.lengths import LaunchLengths, look_at_lengths
from app.web.pages.launch.outlook import Panel, look
from app.web.recipes import STARTING_VALUES, as_asked, methods_of, read_planned, split_lambdas
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
    lines = [tell_data(dataset, values), tell_tokens(lengths), tell_memory(panel), tell_time(session, owner_id, dataset, values)]
    if values.get("method", Method.VAR) == Method.VAR:
        lines += [tell_check(panel), tell_weights(panel, values)]
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


def tell_time(session: Session, owner_id: str, dataset: Dataset | None, values: Mapping[str, str]) -> SummaryLine:
    """Return how long training may take, from the newest finished run that is most like it."""
    try:
        recipe = read_planned(values)
    except InvalidInput:
        return SummaryLine("Time", "known once data and policy are chosen")
    speed = pick_speed(list_speeds(session, owner_id, recipe.policy.model), recipe)
    if speed is None:
        return SummaryLine("Time", "no measurement yet: no finished run trains this policy")
    if dataset is None:
        return SummaryLine("Time", "known once data is chosen")
    num_steps = count_steps(recipe, dataset.num_examples)
    per_step = speed.seconds_per_step * recipe.training.batch_size / batch_size_of(speed)
    where = f" on {speed.device}" if speed.device else ""
    text = (
        f"about {duration(num_steps * per_step)}: {counted(num_steps, 'step')} at {number(per_step, 2)} s, as measured{where} in"
    )
    return SummaryLine("Time", text, link=(f"/runs/{speed.run_id}", speed.name))


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


def tell_weights(panel: Panel, values: Mapping[str, str]) -> SummaryLine:
    typed = split_lambdas(values)
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
