"""What a finding's remedy would change in the recipe of the run that it was raised in, as data: fields and their values."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.domain.events import Change
from app.domain.statistics.resolution import ENOUGH
from app.domain.training.methods import Method, rate_beside

BALANCED_SHARE = 0.5  # the effective sample size, as a share of the batch, that a suggested λ gives
RATE_DIVISOR = 3.0

Recipe = Mapping[str, Any]
Changes = tuple[Change, ...]


@dataclass(frozen=True)
class Temperatures:
    """The λ of a run beside those that its scores suggest. None: not known, or there is no such λ.

    `balanced` gives an effective sample size of half of the batch; with `safe` or more no |r/λ| is too large for the weights.
    """

    used: float | None = None
    balanced: float | None = None
    safe: float | None = None


def suggest_changes(name: str, recipe: Recipe, temperatures: Temperatures) -> Changes:
    """Return the changes that the remedy of this finding names, to be made together; none where it names no value."""
    if name in _BY_TEMPERATURE:
        return _BY_TEMPERATURE[name](recipe, temperatures)
    return _BY_RECIPE[name](recipe) if name in _BY_RECIPE else ()


def make_tuning(recipe: Recipe, name: str) -> dict[str, Any]:
    """Return the run that makes the data's own policy first: plain fine-tuning on all responses, by the same data and steps, at a
    learning rate as far from what is proposed for it as the recipe's is.
    """
    kept = {key: value for key, value in recipe.items() if key not in ("weights", "noise", "online", "keep", "draws")}
    rate = rate_beside(recipe, Method.SFT)
    return {
        **kept, "name": name, "method": Method.SFT.value,
        "training": recipe["training"] | ({} if rate is None else {"learning_rate": rate}),
        "weights": {"responses": "both", "loss_norm": recipe["weights"]["loss_norm"]},
    }  # fmt: skip


def follow_tuning(recipe: Recipe, model: str) -> dict[str, Any]:
    """Return the recipe with this model as policy, and so as reference."""
    return {**recipe, "policy": {**recipe["policy"], "model": model, "revision": None}}


def _set_lambda(recipe: Recipe, value: float) -> Changes:
    """λ to three digits, and no target beside it, which would choose another one."""
    change = Change(field="weights.lambda", value=float(f"{value:.3g}"))
    target = (Change(field="weights.target_ess", value=None),) if recipe["weights"]["target_ess"] is not None else ()
    return (change, *target)


def _raise_lambda(recipe: Recipe, known: Temperatures) -> Changes:
    if known.used is not None and known.balanced is not None and known.balanced > known.used:
        return _set_lambda(recipe, known.balanced)
    return _mean_logprobs(recipe)


def _lower_lambda(recipe: Recipe, known: Temperatures) -> Changes:
    if known.used is not None and known.balanced is not None and known.balanced < known.used:
        return _set_lambda(recipe, known.balanced)
    return ()


def _raise_to_safety(recipe: Recipe, known: Temperatures) -> Changes:
    if known.safe is None:
        return ()
    value = max(known.safe, known.balanced or 0.0)
    digits = 10.0 ** (math.floor(math.log10(value)) - 2)
    return _set_lambda(recipe, math.ceil(value / digits) * digits)  # rounded down it would not be safe


def _mean_logprobs(recipe: Recipe) -> Changes:
    return _put(recipe, {"weights.logprob_norm": "mean"}) if _reads_logprobs(recipe) else ()


def _free_of_length(recipe: Recipe, known: Temperatures) -> Changes:
    """Lengths come into the weights by log π_ref; where that isn't read, by the rewards."""
    if _reads_logprobs(recipe):
        return _mean_logprobs(recipe) or _lower_lambda(recipe, known)
    return _put(recipe, {"reward.length_control": True})


def _reads_logprobs(recipe: Recipe) -> bool:
    """Return whether log π_ref makes a difference to the weights: within a prompt `ratio` cancels it."""
    form, scope = recipe["weights"]["weight_form"], recipe["weights"]["partition_scope"]
    if recipe["online"]["every"] is not None:
        return bool(form != "reward")
    return bool(form == "posterior" or (form == "ratio" and scope == "batch"))


def _take_preference(recipe: Recipe) -> Changes:
    if recipe["reward"]["source"] == "preference" or recipe["online"]["every"] is not None:  # fresh responses have no labels
        return ()
    values: dict[str, Any] = {"reward.source": "preference", "weights.cross_reward": "reuse"}
    values |= {"reward.model": None, "reward.second": None, "reward.third": None, "reward.caution": 1.0}
    if recipe["weights"]["partition_scope"] == "draws":  # nobody has labelled draws of the reference
        values |= {"weights.partition_scope": "prompt", "weights.responses": "both"}
    return _put(recipe, values)


def _lower_rate(recipe: Recipe) -> Changes:
    return (Change(field="training.learning_rate", value=float(f"{recipe['training']['learning_rate'] / RATE_DIVISOR:.2g}")),)


def _drop_overlong(recipe: Recipe) -> Changes:
    return (Change(field="tokens.overlong", value="drop"),) if recipe["tokens"]["overlong"] != "drop" else ()


def _hold_out_more(recipe: Recipe) -> Changes:
    """Twice the share, up to a half, and no fewer test prompts asked for than are always enough."""
    share, num = recipe["evaluation"]["share"], recipe["evaluation"]["num_test_prompts"]
    return _put(recipe, {"evaluation.share": max(share, min(0.5, 2 * share)), "evaluation.num_test_prompts": max(num, ENOUGH)})


def _tune_first(recipe: Recipe) -> Changes:
    """Plain fine-tuning on all of the data's responses, whose result is then policy and reference."""
    scope = {"weights.partition_scope": "batch"} if recipe["weights"]["partition_scope"] == "draws" else {}
    return _put(recipe, {"method": "sft", "weights.responses": "both", "online.every": None} | scope)


def _put(recipe: Recipe, values: Mapping[str, Any]) -> Changes:
    """These values, where the recipe has others."""

    def read(field: str) -> Any:
        part, _, name = field.partition(".")
        return recipe[part].get(name) if name else recipe[part]

    return tuple(Change(field=field, value=value) for field, value in values.items() if read(field) != value)


def _double(part: str, name: str, most: int) -> Callable[[Recipe], Changes]:
    return lambda recipe: _put(recipe, {f"{part}.{name}": min(most, 2 * recipe[part][name])})


def _double_caution(recipe: Recipe) -> Changes:
    if recipe["reward"]["second"] is None:
        return ()
    return _put(recipe, {"reward.caution": min(100.0, 2 * recipe["reward"]["caution"] or 1.0)})


_BY_TEMPERATURE: dict[str, Callable[[Recipe, Temperatures], Changes]] = {
    "overflow_risk": _raise_to_safety,
    "weight_collapse": _raise_lambda,
    "plain_sft": lambda recipe, known: _lower_lambda(recipe, known) or _mean_logprobs(recipe),
    "length_driven": _free_of_length,
}
_BY_RECIPE: dict[str, Callable[[Recipe], Changes]] = {
    "inverted_rewards": _take_preference,
    "foreign_data": _tune_first,
    "reward_disagreement": _double_caution,
    "low_diversity": _double("training", "batch_size", 65_536),
    "divergence": _lower_rate,
    "truncated_pairs": _drop_overlong,
    "truncated": _drop_overlong,
    "unfinished_answers": _double("evaluation", "max_new_tokens", 32_768),
    "small_held_out": _hold_out_more,
    "online_collapse": _double("online", "num_responses", 64),
    "flat_groups": _double("online", "num_responses", 64),
    "nothing_held_out": lambda _: (Change(field="evaluation.share", value=0.0),),
}
