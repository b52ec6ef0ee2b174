"""Which runs an experiment asks for: a recipe becomes the request of a sweep."""

import copy
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.domain.recipe import parse_recipe
from app.domain.sweep import label_of
from app.domain.texts import Line
from app.domain.training.methods import rate_beside
from app.system.numbers import percent

BATCH_SIZES = (2, 4, 8, 16)
TEMPERATURES = (0.1, 0.2, 0.4, 0.8, 1.6)  # in standard deviations of the rewards
RATE_FACTORS = (1 / 3, 1.0, 3.0)
FLIP_SHARES = (0.0, 0.1, 0.2, 0.4)
REWARD_NOISES = (0.0, 0.5, 1.0, 2.0)
ROUNDS = 8
RATE_BY_HEART = 3.0  # times the recipe's learning rate, without a schedule, to learn a batch by heart
MAX_SEEDS = 10
MOST_RECITED = 32

SIZE, RATE, ONLINE = "training.batch_size", "training.learning_rate", "online.every"
NOISES = ("noise.label_flip_share", "noise.reward_std")
Recipe = dict[str, Any]
Parts = dict[str, Any]


class ExperimentRequest(BaseModel):
    """What an experiment starts from: a recipe, and how long and how often its runs are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Line = Field("", max_length=120, description="A name for people; empty: the experiment's title.")
    recipe: Annotated[dict[str, Any], Field(description="The recipe that every run starts from; its steps are left aside.")]
    steps: int = Field(100, ge=10, le=1_000_000, description="Optimizer steps of each run, at the recipe's batch size.")
    seeds: int = Field(3, ge=1, le=MAX_SEEDS, description="Runs of each setting, which differ in training.seed only.")


def prepare(request: ExperimentRequest) -> Recipe:
    """Return the recipe as all runs have it: resolved, so many steps, evaluated in the middle and at the end, and none ended
    before the others by a rule of its own.

    Raises RecipeInvalid with the recipe's faults.
    """
    recipe = parse_recipe(request.recipe).to_dict()
    recipe.pop("name", None)
    steps = {"steps": request.steps, "checkpoint_every": request.steps}
    recipe["training"] = {**recipe["training"], **steps}
    recipe["evaluation"] = {**recipe["evaluation"], "every": -(-request.steps // 2)}
    recipe["keep"] |= {"step": None, "patience": None, "stop_over_budget": False}
    if recipe["keep"]["model"] == "last":
        recipe["keep"]["kl_budget"] = None
    return recipe


def put_seeds(recipe: Mapping[str, Any], num_seeds: int) -> dict[str, list[Any]]:
    """Return the field that repeats every run: the recipe's own seed, and those behind it."""
    first = recipe["training"]["seed"]
    return {"training.seed": [first + number for number in range(num_seeds)]} if num_seeds > 1 else {}


def learn_by_heart(recipe: Recipe) -> Parts:
    """Return the run that learns one batch again and again: chosen ones of the data, a high constant rate, none held out."""
    recipe = {name: part for name, part in copy.deepcopy(recipe).items() if name not in ("keep", "online")}
    recipe["max_examples"] = max(2, recipe["training"]["batch_size"])
    recipe["weights"]["responses"] = "chosen"
    recipe["training"] |= {
        "learning_rate": min(1.0, RATE_BY_HEART * recipe["training"]["learning_rate"]), "schedule": "constant",
        "warmup_share": 0.0, "weight_decay": 0.0,
    }  # fmt: skip
    recipe["evaluation"] |= {"share": 0.0, "every": None, "recite": min(MOST_RECITED, recipe["max_examples"])}
    return {"recipe": recipe, "fields": {"training.seed": [recipe["training"]["seed"]]}}


def vary_temperature(recipe: Recipe) -> Parts:
    recipe = copy.deepcopy(recipe)
    recipe["weights"] |= {"reward_norm": "zscore", "target_ess": None, "lambda": TEMPERATURES[0]}
    return {"recipe": recipe, "lambda": list(TEMPERATURES)}


def vary_method(recipe: Recipe) -> Parts:
    """Return VAR, SFT and DPO, each at three learning rates around its own."""
    rates: dict[str, float] = {"": recipe["training"]["learning_rate"]}
    for name, method in (("sft_chosen", "sft"), ("dpo", "dpo")):
        rates[name] = rate_beside(recipe, method) or rates[""]
    return {
        "recipe": recipe,
        "combinations": [
            ({"baseline": name} if name else {}) | {RATE: min(1.0, float(f"{rate * factor:.3g}"))}
            for name, rate in rates.items()
            for factor in RATE_FACTORS
        ],
    }


def vary_batch_size(recipe: Recipe) -> Parts:
    """Return several B: the learning rate grows with it and the steps shrink, so that all see as many examples, each as much."""
    recipe = copy.deepcopy(recipe)
    recipe["evaluation"]["every"] = recipe["training"]["micro_batch_size"] = None
    training = recipe["training"]
    own, rate, steps = training["batch_size"], training["learning_rate"], training["steps"]
    return {
        "recipe": recipe,
        "combinations": [
            {
                SIZE: size,
                RATE: min(1.0, float(f"{rate * size / own:.3g}")),
                "training.steps": max(1, round(steps * own / size)),
            }
            for size in BATCH_SIZES
        ],
    }


def vary_noise(recipe: Recipe) -> Parts:
    """Return flipped labels where rewards come from the preference, and noise on the rewards where they don't."""
    from_labels = recipe["reward"]["source"] == "preference"
    path, values = (NOISES[0], FLIP_SHARES) if from_labels else (NOISES[1], REWARD_NOISES)
    return {"recipe": recipe, "fields": {path: list(values)}}


def go_online(recipe: Recipe) -> Parts:
    every = max(1, recipe["training"]["steps"] // ROUNDS)
    return {"recipe": recipe, "fields": {ONLINE: [None, every]}}


def label_method(changes: Mapping[str, Any]) -> str:
    method = label_of({"baseline": changes["baseline"]}) if "baseline" in changes else "VAR"
    return f"{method} at {changes[RATE]:g}"


def label_batch_size(changes: Mapping[str, Any]) -> str:
    return f"B = {changes[SIZE]}"


def label_noise(changes: Mapping[str, Any]) -> str:
    """Return the noise in words: a share of the labels, or deviations of the rewards."""
    flipped = changes.get(NOISES[0])
    if flipped is not None:
        return f"{percent(flipped)} of the labels flipped" if flipped else "no label flipped"
    return f"noise of {changes[NOISES[1]]:g} SD" if changes[NOISES[1]] else "no noise"


def label_online(changes: Mapping[str, Any]) -> str:
    return "the data's own" if changes[ONLINE] is None else f"fresh every {changes[ONLINE]} steps"
