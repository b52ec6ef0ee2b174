"""A sweep: one base recipe and its variants, which share data, seeds, prompts and scores."""

import copy
import itertools
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.domain.errors import RecipeInvalid
from app.domain.recipe import Recipe, parse_recipe
from app.domain.weighting import Positive

MOST_VARIANTS = 64

# The baselines that a launch may set beside VAR, as changes of the base recipe.
BASELINES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft_chosen": ("SFT on chosen", {"method": "sft", "weights": {"responses": "chosen"}}),
    "sft_all": ("SFT on all", {"method": "sft", "weights": {"responses": "both"}}),
    "dpo": ("DPO", {"method": "dpo", "weights": {}}),
    "reward_weighted": ("Reward-weighted, no π_ref", {"weights": {"preset": "reward_weighted"}}),
}


class SweepRequest(BaseModel):
    """What is asked for: `lambda` × every field of `fields` (dotted paths with their values), and baselines beside them."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: Annotated[str, Field(max_length=120)] = ""
    recipe: dict[str, Any]
    lambdas: Annotated[list[Positive], Field(max_length=40, alias="lambda")] = []
    fields: Annotated[dict[str, Annotated[list[Any], Field(min_length=1, max_length=40)]], Field(max_length=6)] = {}
    baselines: Annotated[list[str], Field(max_length=4)] = []


class Variant(BaseModel):
    """One run of a sweep: `changes` by dotted path, and the whole resolved recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    changes: dict[str, Any]
    recipe: Recipe


def expand(request: SweepRequest) -> list[Variant]:
    """All variants, the grid first, then the baselines; raises RecipeInvalid naming the field at fault."""
    grid: dict[str, list[Any]] = {"weights.lambda": list(request.lambdas)} if request.lambdas else {}
    grid |= request.fields
    unknown = [name for name in request.baselines if name not in BASELINES]
    if unknown:
        raise RecipeInvalid.at("baselines", f"There is no baseline {unknown[0]!r}; there are {', '.join(BASELINES)}.")
    num_variants = len(request.baselines)
    combinations = 1
    for values in grid.values():
        combinations *= len(values)
    num_variants += combinations
    if num_variants > MOST_VARIANTS:
        raise RecipeInvalid.at(
            "fields", f"These are {num_variants} runs; a sweep has at most {MOST_VARIANTS}. Take fewer values."
        )
    variants = [
        _vary(request.recipe, dict(zip(grid, values, strict=True)), label_of(dict(zip(grid, values, strict=True))))
        for values in itertools.product(*grid.values())
    ]
    smallest = min((v.recipe.weights.lambda_ for v in variants if v.recipe.weights.lambda_ is not None), default=None)
    if smallest is not None:
        variants = [_vary(request.recipe, {**v.changes, "scoring.smallest_lambda": smallest}, v.label) for v in variants]
    return variants + [_baseline(request.recipe, name) for name in request.baselines]


def label_of(changes: dict[str, Any]) -> str:
    """A variant's name among its siblings: `λ 0.3, batch_size 8`."""
    names = {"weights.lambda": "λ", "weights.preset": "", "method": ""}
    parts = [f"{names.get(path, path.rsplit('.', 1)[-1])} {value}".strip() for path, value in changes.items()]
    return ", ".join(parts) or "VAR"


def _vary(base: dict[str, Any], changes: dict[str, Any], label: str) -> Variant:
    data = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, name = path.split(".")
        place = data
        for parent in parents:
            inner = place.get(parent)
            place[parent] = inner = inner if isinstance(inner, dict) else {}
            place = inner
        place[name] = value
    if "weights.lambda" in changes and isinstance(data.get("weights"), dict):
        data["weights"].pop("target_ess", None)
    return Variant(label=label, changes=changes, recipe=parse_recipe(data))


def _baseline(base: dict[str, Any], name: str) -> Variant:
    """The base recipe with another method; what only VAR's weights need is left out."""
    label, changes = BASELINES[name]
    data = copy.deepcopy(base)
    weights = data.get("weights") if isinstance(data.get("weights"), dict) else {}
    kept = {key: weights[key] for key in ("loss_norm",) if weights and key in weights}
    if "method" not in changes and weights:
        kept = {key: weights[key] for key in ("lambda", "target_ess", "reward_norm") if key in weights}
    data.pop("online", None)
    data |= {**changes, "weights": {**kept, **changes["weights"]}}
    return Variant(label=label, changes={"baseline": name}, recipe=parse_recipe(data))
