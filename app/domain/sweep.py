"""A sweep: one recipe and its variants, which share data, seeds, held-out prompts and scores.

request = parse_request({"recipe": {…}, "lambda": [0.1, 0.3], "fields": {"training.batch_size": [2, 8]}, "baselines": ["dpo"]})
expand(request)     # λ 0.1, batch_size 2 · λ 0.1, batch_size 8 · … · DPO: five variants

Settings that only make sense together, such as a batch size with its learning rate, are `combinations`: one axis of the grid.
"""

import copy
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.domain.errors import RecipeInvalid
from app.domain.problems import MOST_FAULTS, at_most, fault, parse, summary
from app.domain.recipe import Method, Recipe, parse_recipe
from app.domain.run import FINAL_STATES, RunState
from app.domain.texts import Line
from app.domain.training.baselines import BASELINES
from app.domain.training.methods import ON_GROUPS, rate_beside
from app.domain.weighting import DEFAULT_PRESET, PRESETS, Positive, Preset

LONGEST_VALUE = 120  # in a label
MOST_VARIANTS = 64
MAX_DEPTH = 20
LAMBDA = "weights.lambda"
OF_SCORED = ("second", "third", "length_control", "per_prompt")  # what is done to rewards of scored data alone

Problem = Mapping[str, Any]
Values = Annotated[list[Any], Field(min_length=1, max_length=40)]
Settings = Annotated[dict[Annotated[str, Field(max_length=200)], Values], Field(max_length=6), at_most(6)]
Baselines = Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=20)]
Combination = Annotated[dict[Annotated[str, Field(max_length=200)], Any], Field(min_length=1, max_length=20)]
Combinations = Annotated[list[Combination], Field(max_length=40), at_most(40)]


class SweepState(StrEnum):
    """What the states of its runs say of a sweep."""

    QUEUED = "queued"
    PAUSED = "paused"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"
    FAILED = "failed"
    INCOMPLETE = "incomplete"

    @property
    def final(self) -> bool:
        """True when none of its runs goes on."""
        return self not in (SweepState.QUEUED, SweepState.PAUSED, SweepState.RUNNING)


def is_deeper(value: Any, depth: int) -> bool:
    """Return whether lists and objects are nested in one another more than so many times."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 0 or any(is_deeper(one, depth - 1) for one in inner)


class SweepRequest(BaseModel):
    """What is asked for: `combinations` × `lambda` × every field of `fields` (dotted paths with their values), and baselines
    beside them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: Line = Field("", max_length=120, description="A name for people; empty: the recipe's, or data set and policy.")
    recipe: Annotated[dict[str, Any], Field(description="The recipe that every variant starts from.")]
    lambdas: Annotated[list[Positive], Field(max_length=40, alias="lambda", description="The temperatures λ > 0.")] = []
    fields: Settings = Field({}, description="Further settings by dotted path, each with its values; all combinations are run.")
    combinations: Combinations = Field(
        [],
        description="Settings that change together, each as dotted paths with one value; `baseline` may name another method. "
        "Each is run with every λ and field.",
    )
    baselines: Annotated[Baselines, Field(description=f"Of {', '.join(BASELINES)}: one run each.")] = []
    experiment: Line = Field(
        "", max_length=40, description="The experiment that asks for it, of `GET /experiments`; mostly none."
    )

    @model_validator(mode="after")
    def names_are_known(self) -> Self:
        named = [(f"fields.{name}", values) for name, values in self.fields.items()]
        named += [
            (f"combinations.{n}.{name}", value)
            for n, together in enumerate(self.combinations)
            for name, value in together.items()
        ]
        for path, value in (("recipe", self.recipe), *named):
            if is_deeper(value, MAX_DEPTH):
                raise fault(path, f"Values are nested more than {MAX_DEPTH} levels deep, which no recipe is.")
            if path.rpartition(".")[2] == "name" and path.count(".") == 1 + path.startswith("combinations"):
                raise fault(path, "The sweep names its runs itself, by what they differ in: leave the name out.")
        for path, name in [("baselines", name) for name in self.baselines] + [
            (f"combinations.{n}.baseline", one["baseline"]) for n, one in enumerate(self.combinations) if "baseline" in one
        ]:
            if name not in BASELINES:
                raise fault(path, f"There is no baseline {name!r}; there are {', '.join(BASELINES)}.")
        if self.lambdas and LAMBDA in self.fields:
            raise fault(f"fields.{LAMBDA}", "λ is given twice: as lambda and as a field. Keep one of them.")
        twice = {name for one in self.combinations for name in one} & {*self.fields, *([LAMBDA] if self.lambdas else [])}
        if twice:
            raise fault("combinations", f"{min(twice)} is given twice: in a combination and by itself. Keep one of them.")
        return self

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the names users write (`lambda`)."""
        return self.model_dump(mode="json", by_alias=True)


class Variant(BaseModel):
    """One run of a sweep: `changes` by dotted path (or the baseline's name), and the whole resolved recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    changes: dict[str, Any]
    recipe: Recipe

    def to_dict(self) -> dict[str, Any]:
        return {"label": self.label, "changes": self.changes, "recipe": self.recipe.to_dict()}


def parse_request(data: Any) -> SweepRequest:
    """Return a request from plain data; raises RecipeInvalid with every field at fault."""
    return parse(SweepRequest, data, RecipeInvalid)


def expand(request: SweepRequest, *, beside: Sequence[Variant] = ()) -> list[Variant]:
    """Return all variants, the grid first, then the baselines; with `beside`, those that aren't among these already.

    Their scores serve the smallest λ of all of them. Raises RecipeInvalid with the faults of every variant: `field` is a
    path in the recipe, `variant` the label of the one at fault (left out where all are).
    """
    if not beside and not (request.lambdas or request.fields or request.combinations or request.baselines):
        text = "A sweep compares several runs: give values of λ, values of other settings, or baselines."
        raise RecipeInvalid.at("lambda", text)
    asked = [*_grid(request), *((BASELINES[name][0], {"baseline": name}) for name in request.baselines)]
    _refuse_many(request, len(asked))
    found, faults = [], []
    for label, changes in asked:
        try:
            found.append(Variant(label=label, changes=changes, recipe=parse_recipe(_vary(request, changes))))
        except RecipeInvalid as error:
            faults.append((label, error.problems))
            if len(error.problems) == MOST_FAULTS:  # no variant of such a recipe is worth another look
                break
    refuse(faults, len(asked))
    _refuse_doubles(found)
    known = [_bare(variant.recipe) for variant in beside]
    fresh = [variant for variant in found if _bare(variant.recipe) not in known]
    _refuse_many(request, len(fresh) + len(beside))
    return _serve_smallest(fresh, [*beside, *found])


def refuse(faults: Sequence[tuple[str, Sequence[Problem]]], num_variants: int) -> None:
    """Raise RecipeInvalid for the faults of variants by label, if there are any; what is wrong in all of them is said once."""
    if not faults:
        return
    met = [{(problem["field"], problem["message"]) for problem in problems} for _, problems in faults]
    in_all = set.intersection(*met) if len(faults) == num_variants else set()
    problems: list[dict[str, Any]] = [{"field": field, "message": message} for field, message in sorted(in_all)]
    detail = summary(problems) if problems else _say_of(faults[0][0], summary(faults[0][1]))
    problems += [
        {"field": problem["field"], "message": _say_of(label, problem["message"]), "variant": label}
        for label, found in faults
        for problem in found
        if (problem["field"], problem["message"]) not in in_all
    ]
    raise RecipeInvalid(detail, problems=problems[:MOST_FAULTS])


def _say_of(label: str, message: str) -> str:
    """Return the message with the label before it, unless it names the one value of the label itself."""
    return message if "," not in label and f"{label.rsplit(' ', 1)[-1]!r}" in message else f"{label}: {message}"


def state_of(counts: Mapping[str, int], num_variants: int, *, stopped: bool) -> SweepState:
    """Return the sweep's state from how many of its runs are in which; a variant without a run was deleted.

    It is paused when all that have not ended are.
    """
    num_going = sum(number for state, number in counts.items() if RunState(state) not in FINAL_STATES)
    if num_going and num_going == counts.get(RunState.PAUSED, 0):
        return SweepState.PAUSED
    if num_going:
        return SweepState.QUEUED if num_going == counts.get(RunState.QUEUED, 0) == num_variants else SweepState.RUNNING
    if counts.get(RunState.SUCCEEDED, 0) == num_variants:
        return SweepState.SUCCEEDED
    if stopped:
        return SweepState.STOPPED
    return SweepState.FAILED if counts.get(RunState.FAILED) else SweepState.INCOMPLETE


def label_of(changes: Mapping[str, Any]) -> str:
    """Return a variant's name among its siblings: `λ 0.3, batch_size 8`; empty without changes."""
    return ", ".join(f"{name_of(path)} {write_value(path, value)}".strip() for path, value in changes.items())


def label_among(combinations: Iterable[Mapping[str, Any]], own: Any, changes: Mapping[str, Any]) -> str:
    """Return the same; where some of these combinations are of other methods, with the recipe's `own` before its settings."""
    text = label_of(changes)
    if not text or "baseline" in changes or not any("baseline" in one for one in combinations):
        return text
    return f"{str(own).upper()}, {text}"


def name_of(path: str) -> str:
    """Return what a setting is called in the labels of variants; empty where its values tell what they are."""
    known = {LAMBDA: "λ", "weights.preset": "", "method": "", "baseline": "", "online.every": ""}
    return known.get(path, path.rsplit(".", 1)[-1])


def write_value(path: str, value: Any) -> str:
    """Return a setting's value as labels have it."""
    if path == "baseline":
        return BASELINES[value][0]
    if path == "online.every":
        return "offline" if value is None else f"online every {value} steps"
    return _write(value)


def _write(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _grid(request: SweepRequest) -> list[tuple[str, dict[str, Any]]]:
    """Label and changes of every combination; without any value the recipe itself. At most one more than may be."""
    values = ({LAMBDA: list(request.lambdas)} if request.lambdas else {}) | request.fields
    axes: list[list[dict[str, Any]]] = [list(request.combinations)] if request.combinations else []
    axes += [[{path: value} for value in found] for path, found in values.items()]
    parts = itertools.islice(itertools.product(*axes), MOST_VARIANTS + 1)
    changes = [{path: value for part in one for path, value in part.items()} for one in parts]
    own = request.recipe.get("method", "var")
    return [(label_among(request.combinations, own, change) or _label_itself(request.recipe), change) for change in changes]


def _label_itself(recipe: Mapping[str, Any]) -> str:
    """Return what the recipe is called beside its baselines: `VAR, λ 0.3`."""
    if recipe.get("method", "var") != "var":
        return "the recipe itself"
    weights = recipe.get("weights")
    value = weights.get("lambda") if isinstance(weights, Mapping) else None
    return "VAR" if value is None else f"VAR, {label_of({LAMBDA: value})}"


def _vary(request: SweepRequest, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of a variant, not yet validated."""
    data = copy.deepcopy(request.recipe)
    if "baseline" in changes:
        data = _make_baseline(data, str(changes["baseline"]), request.lambdas)
        changes = {path: value for path, value in changes.items() if path != "baseline"}
    if "weights.preset" in changes:
        _forget_preset(data)
    for path, value in changes.items():
        _put(data, path, value)
    for path, other in ((LAMBDA, "target_ess"), ("weights.target_ess", "lambda")):
        if path in changes and f"weights.{other}" not in changes and isinstance(data.get("weights"), dict):
            data["weights"].pop(other, None)
    return data


def _put(data: dict[str, Any], path: str, value: Any) -> None:
    *parents, name = path.split(".")
    if len(parents) > MAX_DEPTH:
        raise RecipeInvalid.at(path, "There is no setting so deep inside of others. Check the spelling.")
    for parent in parents:
        if data.get(parent) is None:
            data[parent] = {}
        if not isinstance(data[parent], dict):
            raise RecipeInvalid.at(path, f"There is no setting called {path}: {parent} holds a single value. Check the spelling.")
        data = data[parent]
    data[name] = value


def _forget_preset(data: dict[str, Any]) -> None:
    """Take out what the recipe's preset says anyway: in a resolved recipe it would overrule the variant's preset."""
    weights = data.get("weights")
    if not isinstance(weights, dict) or weights.get("preset", DEFAULT_PRESET) not in list(Preset):
        return
    says = PRESETS[Preset(weights.get("preset", DEFAULT_PRESET))]
    source = (data.get("reward") or {}).get("source", "preference") if isinstance(data.get("reward") or {}, dict) else ""
    reused = {"cross_reward": "reuse"} if source != "model" else {}
    data["weights"] = {key: value for key, value in weights.items() if {**says, **reused}.get(key, ...) != value}


def _make_baseline(data: dict[str, Any], name: str, lambdas: Iterable[float]) -> dict[str, Any]:
    """Return the recipe with another method; what only VAR's weights need is left out."""
    changes = BASELINES[name][1]
    weights = data["weights"] if isinstance(data.get("weights"), dict) else {}
    if "method" in changes:
        kept = {key: weights[key] for key in ("loss_norm",) if key in weights}
    else:
        kept = {key: weights[key] for key in ("lambda", "target_ess", "reward_norm") if weights.get(key) is not None}
        first = next(iter(lambdas), None)
        if first is not None and "lambda" not in kept and "target_ess" not in kept:
            kept["lambda"] = first
    if changes.get("method") not in ON_GROUPS:
        data.pop("online", None)
    elif isinstance(data.get("reward"), dict):
        data["reward"] = {key: value for key, value in data["reward"].items() if key not in OF_SCORED}
    made = {**data, "method": "var", **changes, "weights": {**kept, **changes["weights"]}}
    rate = rate_beside(data, changes.get("method", Method.VAR))
    return made if rate is None else {**made, "training": {**made["training"], "learning_rate": rate}}


def _bare(recipe: Recipe) -> dict[str, Any]:
    """Return what makes one variant another one: all but its name and how it is scored."""
    return {key: value for key, value in recipe.to_dict().items() if key not in ("name", "scoring")}


def _refuse_many(request: SweepRequest, num_variants: int) -> None:
    if num_variants > MOST_VARIANTS:
        text = f"A sweep has at most {MOST_VARIANTS} runs, and these are more: take fewer values."
        raise RecipeInvalid.at("fields" if request.fields else "lambda", text)


def _refuse_doubles(variants: Sequence[Variant]) -> None:
    seen: dict[str, str] = {}
    for variant in variants:
        content = json.dumps(_bare(variant.recipe), sort_keys=True)
        if content in seen:
            where = next(iter(variant.changes)).replace("baseline", "baselines")
            what = "stands here twice" if seen[content] == variant.label else f"is the same run as “{seen[content]}”"
            raise RecipeInvalid.at(where, f"“{variant.label}” {what}: take one of them out.")
        seen[content] = variant.label


def _serve_smallest(variants: Sequence[Variant], siblings: Sequence[Variant]) -> list[Variant]:
    """One pass of scoring serves all: it is told the smallest λ among them."""
    smallest = [
        value
        for one in siblings
        for value in (one.recipe.weights.lambda_, one.recipe.scoring.smallest_lambda)
        if value is not None and one.recipe.method == "var"
    ]
    if not smallest:
        return list(variants)
    served = {"smallest_lambda": min(smallest)}
    return [
        one.model_copy(update={"recipe": one.recipe.model_copy(update={"scoring": one.recipe.scoring.model_copy(update=served)})})
        for one in variants
    ]
