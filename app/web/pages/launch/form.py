"""The launch form: few dials in sight, every other setting of a recipe folded below, made from the recipe's own fields."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.domain.dataset import DatasetState
from app.domain.errors import Conflict, InvalidInput
from app.domain.experiments.catalogue import Experiment, get_experiment
from app.domain.experiments.plans import ExperimentRequest
from app.domain.preview.readings import ExampleReading
from app.domain.recipe import Method, Preset
from app.domain.sweep import SweepRequest
from app.domain.training.baselines import BASELINES
from app.domain.training.methods import OF_POLICIES, ON_GROUPS
from app.services import previews, sweeps
from app.services import runs as service
from app.services.names import name_copy
from app.store import datasets, models, scorings
from app.store import runs as store
from app.store.sharing import get_visible
from app.store.tables import RecipeTemplate
from app.web.dependencies import CurrentDatabase, CurrentUser, ReadSession, write_apart
from app.web.pages.launch.beginning import (
    BeginningNote,
    StartingPoints,
    begin_with_dataset,
    begin_with_template,
    list_starting_points,
)
from app.web.pages.launch.lengths import LaunchLengths, look_at_lengths
from app.web.pages.launch.outlook import Panel, look
from app.web.pages.launch.summary import PLAIN, Summary, summarise
from app.web.recipes import FROM_PRESET, SFT_FIELDS, STARTING_VALUES, as_asked, at_fields, clone_values, methods_of, read_order
from app.web.rendering.choices import Choice, dataset_choices, model_choices
from app.web.rendering.environment import Context, render
from app.web.rendering.fields import RECIPE_FIELDS, Field, fill, flatten
from app.web.rendering.wording import METHOD_TEXTS, PRESET_TEXTS, SOURCE_TEXTS, option_text

router = APIRouter()

OF_PAIRS = ("dpo.beta", "ipo.beta", "simpo.beta", "simpo.gamma", "orpo.beta",
            "kto.beta", "kto.desirable_weight", "kto.undesirable_weight", "kto.split_pairs")  # fmt: skip
NAMED_METHODS = {"policies": " ".join(OF_POLICIES), "rewarded": " ".join((Method.VAR, *ON_GROUPS))}
DIALS = (
    "name", "method", "dataset", "policy.model", "policy.adaptation", "reward.source", "reward.model", "reward.judge",
    "reward.second", "reward.third", "reward.caution", "reward.accept_inverted", "weights.preset", "weights.target_ess",
    "weights.lambda", *OF_PAIRS, "training.batch_size", "training.epochs", "training.steps", "training.learning_rate",
    "tokens.max_prompt", "tokens.max_response",
)  # fmt: skip
SCALE = ("policy.quantization", "policy.compile", "policy.gradient_checkpointing", "training.num_processes", "training.sharding")
GROUPS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (  # each with the parts of the recipe that it holds
    ("weights", "Weights, draws and fresh responses",
     "what the preset decides, Z(x) from draws of the reference, errors made on purpose, online rounds",
     ("weights", "draws", "noise", "online", "group")),
    ("policy", "Policy and devices", "adapter, number type, 4 bits, several devices", ("policy", "scale")),
    ("training", "Training, stopping and the kept model",
     "schedule, micro-batches, checkpoints, seed; when it ends early, which model stays",
     ("training", "keep")),
    ("evaluation", "Evaluation", "held-out share, samples, decoding", ("evaluation",)),
    ("data", "Data, format and scoring", "a part of it, overlong texts, chat template, how log π_ref and rewards are computed",
     ("max_examples", "tokens", "scoring", "reward")),
)  # fmt: skip
MOST_CHOICES = 500
EXPERIMENT_FIELDS = ("experiment", "experiment.steps", "experiment.seeds")


@dataclass(frozen=True)
class SettingGroup:
    """Settings folded away together; `open` when one of them is at fault or was changed."""

    id: str
    title: str
    text: str
    fields: list[Field]
    open: bool
    methods: str


@dataclass(frozen=True)
class SettingOption:
    """One of a row of choices, with what it means."""

    value: str
    title: str
    text: str
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class LaunchPage(Context):
    template = "launch/new.html"

    dials: dict[str, Field]
    sft: dict[str, list[SettingOption]]
    of_pairs: list[Field]
    named_methods: dict[str, str]  # those that train a policy, those that a reward model may teach
    panel: Panel
    summary: Summary
    lengths: LaunchLengths
    is_live: bool = False  # of the lengths: they come into a page that is there
    example: ExampleReading | None
    sentence: str  # why there is no example
    is_asked: bool = False
    example_number: str
    groups: list[SettingGroup]
    datasets: list[Choice]
    policies: list[Choice]
    rewards: list[Choice]
    methods: list[SettingOption]
    sources: list[SettingOption]
    presets: list[SettingOption]
    baselines: list[SettingOption]
    private: bool
    from_preset: frozenset[str]
    title: str
    problems: list[dict[str, Any]]
    detail: str
    origin: tuple[str, str]  # where the values come from: address and text
    start: StartingPoints
    experiment: Experiment | None
    experiment_values: dict[str, str]


@router.get("/runs/new")
def new_run(
    request: Request, session: ReadSession, user: CurrentUser,
    clone: str = "", scoring: str = "", template: str = "", dataset: str = "",
) -> HTMLResponse:  # fmt: skip
    """Empty, or filled from a run, from a scoring's settings, or by query parameters named like the recipe's settings."""
    values, origin, note = dict(STARTING_VALUES), ("", ""), None
    if clone:
        original = store.get_run(session, user.id, clone)
        if not original.recipe:
            raise Conflict(
                f"Run “{original.name}” follows no recipe that could be cloned: it answers prompts. Ask for them again."
            )
        values = {**clone_values(original.recipe), "name": name_copy(session, user.id, original)}
        values["private"] = "yes" if original.private else ""
        if request.query_params.get("method") == Method.SFT:
            values |= {f"sft.{name}": original.recipe["weights"][name] for name in SFT_FIELDS}
        origin = (f"/runs/{clone}", original.name)
    if scoring:
        known = scorings.get_scoring(session, user.id, scoring)
        values |= flatten(known.settings) | ({"weights.preset": Preset.DRAWS} if "draws" in known.settings else {})
        if values.get("policy.quantization", "none") != "none":  # the settings of scores don't say how the policy is trained
            values["policy.adaptation"] = "lora"
        origin = (f"/scorings/{scoring}", known.name)
    if template:
        values, note = begin_with_template(session, user.id, template, values)
        origin = (f"/recipe-templates/{template}", get_visible(session, RecipeTemplate, user.id, template).name)
    if dataset:
        values, told = begin_with_dataset(session, user.id, dataset, values)
        note = note or told
    if scorings.list_scorings(session, user.id, limit=1):
        previews.expect(session)
    named = [*(field.path for field in RECIPE_FIELDS), *EXPERIMENT_FIELDS]
    values |= {name: request.query_params[name] for name in named if name in request.query_params}
    if values.get("experiment"):
        values["name"] = ""  # the experiment's title
    if request.query_params.get("method") == Method.SFT:  # which has fields of its own for two of the weights' settings
        values |= {f"sft.{name}": text for name in SFT_FIELDS if (text := request.query_params.get(f"weights.{name}"))}
    values |= {"private": "yes"} if request.query_params.get("private") == "yes" else {}
    return form_page(request, session, user.id, values, origin=origin, note=note)


@router.post("/runs/new")
async def launch_run(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    """The run's or the sweep's page on success; otherwise the form again, with everything typed and what is wrong with it."""
    values = await read_form(request)
    private = values.get("private") == "yes"

    def launch() -> Response:
        try:
            order = read_order(values)
            with database.writing() as session:
                if isinstance(order, SweepRequest):
                    target = f"/sweeps/{sweeps.launch(session, user.id, order, private=private).id}"
                else:
                    target = f"/runs/{service.launch(session, user.id, order, private=private).id}"
        except InvalidInput as error:
            with database.reading() as session:
                return form_page(request, session, user.id, values, error=error)
        return RedirectResponse(target, status_code=303)

    return await write_apart(request, launch)


async def read_form(request: Request) -> dict[str, str]:
    """Return what was typed, by the inputs' names."""
    async with request.form(max_fields=300, max_files=0) as form:
        return {name: str(value) for name, value in form.items()}


def form_page(
    request: Request,
    session: Session,
    owner_id: str,
    values: Mapping[str, str],
    *,
    error: InvalidInput | None = None,
    origin: tuple[str, str] = ("", ""),
    panel: Panel | None = None,
    lengths: LaunchLengths | None = None,
    example: tuple[ExampleReading | None, str] = (None, ""),
    note: BeginningNote | None = None,
    title: str = "This can't be launched yet",
    status: int = 0,
) -> HTMLResponse:
    """Return the page with these values; `panel`, `lengths`: what is known before the launch, looked up when not given.

    `note`: what came of filling the form; `title`: what the error means.
    """
    faults = at_fields(error.problems) if error else []
    filled = {field.path: prepare(field, values, faults) for field in RECIPE_FIELDS}
    ready = datasets.list_datasets(session, owner_id, state=DatasetState.READY, limit=MOST_CHOICES)
    panel = panel or look(session, owner_id, values)
    lengths = lengths or look_at_lengths(session, request.app.state.files, owner_id, values)
    context = LaunchPage(
        dials={path: filled[path] for path in DIALS},
        sft=list_sft_options(filled, values),
        of_pairs=[filled[path] for path in OF_PAIRS],
        named_methods=NAMED_METHODS,
        panel=panel,
        summary=summarise(session, owner_id, values, panel, lengths),
        lengths=lengths,
        example=example[0],
        sentence=example[1],
        example_number=values.get("reading.example", "0"),
        groups=[group_of(*group, filled) for group in GROUPS],
        datasets=dataset_choices(ready),
        policies=model_choices(models.list_models(session, owner_id, kind="policy", limit=MOST_CHOICES)),
        rewards=model_choices(models.list_models(session, owner_id, kind="reward", limit=MOST_CHOICES)),
        methods=options_of(filled["method"], METHOD_TEXTS),
        sources=options_of(filled["reward.source"], SOURCE_TEXTS),
        presets=options_of(filled["weights.preset"], PRESET_TEXTS),
        baselines=list_baselines(values),
        private=values.get("private") == "yes",
        from_preset=FROM_PRESET,
        title=title,
        problems=faults,
        detail=error.detail if error else "",
        origin=origin,
        start=list_starting_points(session, owner_id, values, note),
        **fill_experiment(values),
    )
    return render(request, context, status=status or (422 if error else 200))


def list_baselines(values: Mapping[str, str]) -> list[SettingOption]:
    """Return what a launch may set beside VAR."""
    return [SettingOption(name, title, "", values.get(f"baseline.{name}") == "yes") for name, (title, _) in BASELINES.items()]


def list_sft_options(filled: Mapping[str, Field], values: Mapping[str, str]) -> dict[str, list[SettingOption]]:
    """Return the choices of plain fine-tuning, which are asked for apart from the weights that no preset decides there."""
    found = {path: (filled[f"weights.{path}"], values.get(f"sft.{path}", "")) for path in SFT_FIELDS}
    return {
        path: [SettingOption(value, text, "", value == chosen) for value, text in field.choices]
        for path, (field, chosen) in found.items()
    }


def fill_experiment(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the experiment that is set up, if one is, and how long and how often its runs are, as typed or as proposed."""
    fields = ExperimentRequest.model_fields
    return {
        "experiment": get_experiment(values["experiment"]) if values.get("experiment") else None,
        "experiment_values": {name: values.get(f"experiment.{name}", str(fields[name].default)) for name in ("steps", "seeds")},
    }


def prepare(field: Field, values: Mapping[str, str], faults: list[dict[str, Any]]) -> Field:
    """Return the field as the form shows it: with what was typed, what is wrong with that, and the methods that read it."""
    methods = methods_of(field.path)
    named = " ".join(methods) if len(methods) < len(Method) else ""
    return replace(fill(as_asked(field), values, faults), methods=named)


def options_of(field: Field, texts: Mapping[str, str]) -> list[SettingOption]:
    """Return a field's options as a row of choices, in the order of their texts."""
    return [SettingOption(value, option_text(field.path, value), text, value == field.value) for value, text in texts.items()]


def group_of(id: str, title: str, text: str, parts: tuple[str, ...], filled: Mapping[str, Field]) -> SettingGroup:
    """Return the settings of one fold; those that scale a run come from several parts of the recipe."""
    mine = [
        field
        for path, field in filled.items()
        if path not in DIALS and ("scale" if path in SCALE else path.split(".")[0]) in parts
    ]
    changed = any(field.errors or field.value != PLAIN[field.path] for field in mine)
    shared = any(not field.methods for field in mine)
    methods = "" if shared else " ".join(dict.fromkeys(method for field in mine for method in field.methods.split()))
    return SettingGroup(id, title, text, mine, changed, methods)
