"""The launch form: few dials in sight, every other setting of a recipe folded below, made from the recipe's own fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from app.domain.dataset import DatasetState
from app.domain.errors import InvalidInput
from app.domain.recipe import PRESETS, Preset, Recipe, parse_recipe
from app.services import runs as service
from app.store import datasets, models
from app.store import runs as store
from app.web.choices import Choice, dataset_choices, model_choices
from app.web.dependencies import CurrentDatabase, CurrentUser, ReadSession, write_apart
from app.web.fields import RECIPE_FIELDS, Field, collect, fill, flatten
from app.web.rendering import Context, render

router = APIRouter()

DIALS = (
    "name", "dataset", "policy.model", "policy.adaptation", "reward.source", "reward.model", "weights.preset", "weights.lambda",
    "reward.judge", "training.batch_size", "training.epochs", "training.steps", "training.learning_rate",
)  # fmt: skip
STARTING_VALUES = {"weights.lambda": "0.3"}
FROM_PRESET = frozenset(f"weights.{name}" for settings in PRESETS.values() for name in settings)
GROUPS = (
    ("weights", "Weights", "what the preset decides, one by one"),
    ("policy", "Policy", "adapter, number type, memory"),
    ("training", "Training", "schedule, micro-batches, checkpoints, seed"),
    ("evaluation", "Evaluation", "held-out share, samples, decoding"),
    ("tokens", "Lengths and format", "truncation, chat template"),
    ("reward", "Reward model", "its revision"),
    ("max_examples", "Data", "use a part of it"),
)
PRESET_TEXTS = {
    Preset.LENGTH_NORMALISED: "Posterior weights from the mean log-probability per token: long and short compete fairly.",
    Preset.PAPER: "The published formula to the letter: summed log-probabilities. Tends to favour short responses.",
    Preset.WITHIN_PROMPT: "Importance weights among the responses to the same prompt only. Cautious; needs pairs.",
    Preset.REWARD_WEIGHTED: "exp(r/λ) without the reference's probability: the control to compare with.",
}
SOURCE_TEXTS = {
    "preference": "The label of the data: +1 for chosen, −1 for rejected.",
    "rating": "The rating column of the data set.",
    "model": "A reward model scores every response.",
}
MOST_CHOICES = 500


@dataclass(frozen=True)
class Group:
    """Settings folded away together; `open` when one of them is at fault or was changed."""

    id: str
    title: str
    text: str
    fields: list[Field]
    open: bool


@dataclass(frozen=True, kw_only=True)
class LaunchPage(Context):
    dials: dict[str, Field]
    groups: list[Group]
    datasets: list[Choice]
    policies: list[Choice]
    rewards: list[Choice]
    presets: dict[str, str]
    sources: dict[str, str]
    from_preset: frozenset[str]
    problems: list[dict[str, Any]]
    detail: str
    cloned: str


@router.get("/runs/new")
def new_run(request: Request, session: ReadSession, user: CurrentUser, clone: str = "", dataset: str = "") -> HTMLResponse:
    values = dict(STARTING_VALUES)
    if clone:
        original = store.get_run(session, user.id, clone)
        values = {**clone_values(original.recipe), "name": service.name_copy(session, original)}
    if dataset:
        values["dataset"] = dataset
    return form_page(request, session, user.id, values, cloned=clone)


@router.post("/runs/new")
async def launch_run(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    """The run's page on success; otherwise the form again, with everything that was typed and what is wrong with it."""
    async with request.form(max_fields=200, max_files=0) as form:
        values = {name: str(value) for name, value in form.items()}

    def launch() -> Response:
        try:
            recipe = read_recipe(values)
            with database.writing() as session:
                run = service.launch(session, user.id, recipe)
        except InvalidInput as error:
            with database.reading() as session:
                return form_page(request, session, user.id, values, error=error)
        return RedirectResponse(f"/runs/{run.id}", status_code=303)

    return await write_apart(request, launch)


def read_recipe(values: Mapping[str, str]) -> Recipe:
    """Raises RecipeInvalid with each fault at its field."""
    nested = collect(RECIPE_FIELDS, values)
    if nested.get("reward", {}).get("source") != "model":
        nested.get("reward", {}).pop("model", None)  # its input is hidden then
    return parse_recipe(nested)


def clone_values(recipe: Mapping[str, Any]) -> dict[str, str]:
    """A recipe as form values; what the preset says anyway is left to the preset."""
    values = flatten(recipe)
    says = flatten({"weights": PRESETS[Preset(recipe["weights"]["preset"])]})
    reused = recipe["reward"]["source"] != "model" and values["weights.cross_reward"] == "reuse"
    for path in FROM_PRESET:
        if values.get(path) == says.get(path) or (path == "weights.cross_reward" and reused):
            values[path] = ""
    return values


def form_page(
    request: Request,
    session: ReadSession,
    owner_id: str,
    values: Mapping[str, str],
    *,
    error: InvalidInput | None = None,
    cloned: str = "",
) -> HTMLResponse:
    faults = error.problems if error else []
    filled = {field.path: fill(as_asked(field), values, faults) for field in RECIPE_FIELDS}
    ready = datasets.list_datasets(session, owner_id, state=DatasetState.READY, limit=MOST_CHOICES)
    context = LaunchPage(
        dials={path: filled[path] for path in DIALS},
        groups=[group_of(*group, filled) for group in GROUPS],
        datasets=dataset_choices(ready),
        policies=model_choices(models.list_models(session, owner_id, kind="policy", limit=MOST_CHOICES)),
        rewards=model_choices(models.list_models(session, owner_id, kind="reward", limit=MOST_CHOICES)),
        presets={str(preset): text for preset, text in PRESET_TEXTS.items()},
        sources=SOURCE_TEXTS,
        from_preset=FROM_PRESET,
        problems=faults,
        detail=error.detail if error else "",
        cloned=cloned,
    )
    return render(request, "runs/new.html", context, status=422 if error else 200)


def as_asked(field: Field) -> Field:
    """What the preset decides starts empty, which means: as the preset says."""
    return fill(field, {field.path: ""}, []) if field.path in FROM_PRESET else field


def group_of(id: str, title: str, text: str, filled: Mapping[str, Field]) -> Group:
    fields = [field for path, field in filled.items() if path.split(".")[0] == id and path not in DIALS]
    plain = {field.path: as_asked(field).value for field in RECIPE_FIELDS}
    changed = any(field.errors or field.value != plain[field.path] for field in fields)
    return Group(id, title, text, fields, changed)
