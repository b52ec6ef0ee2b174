"""Between the launch form and the domain: its values as a recipe, a sweep or a request for a preview, and a recipe as its values.

An input that the chosen method has no use for is hidden, so what it holds is not read.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from app.domain.errors import RecipeInvalid
from app.domain.experiments.catalogue import ask, get_experiment
from app.domain.experiments.plans import ExperimentRequest
from app.domain.preview.weights import PreviewRequest
from app.domain.problems import parse
from app.domain.recipe import DEFAULT_PRESET, PRESETS, Method, Preset, Recipe, parse_recipe
from app.domain.sweep import SweepRequest, parse_request
from app.domain.training.baselines import BASELINES
from app.domain.training.methods import OF_POLICIES, ON_GROUPS, ON_PAIRS, WITH_REFERENCE, propose_rate, rate_beside
from app.domain.weighting import DrawsSettings, name_scale
from app.web.rendering.fields import RECIPE_FIELDS, Field, collect, fill, flatten, read
from app.web.rendering.form_words import in_form_words, tell
from app.web.rendering.format import exact
from app.web.rendering.wording import option_text

FROM_PRESET = frozenset(f"weights.{name}" for settings in PRESETS.values() for name in settings)
TARGET_ESS = "0.5"
STARTING_VALUES = {
    "weights.target_ess": TARGET_ESS, "weights.fallback": "reward_std", "sft.responses": "chosen", "sft.loss_norm": "token_mean",
}  # fmt: skip
PREVIEWED_LAMBDAS = (0.03, 0.1, 0.3, 1.0, 3.0)
SFT_FIELDS = ("responses", "loss_norm")  # of the weights; asked for apart, since no preset decides them there

# Settings by the methods that read them; the longest path that fits decides, and what is not named belongs to all.
_OF_METHODS = {
    "policy.adaptation": OF_POLICIES,
    "policy.lora": OF_POLICIES,
    "policy.quantization": OF_POLICIES,
    "training.sharding": OF_POLICIES,
    "reward": (Method.VAR, *ON_GROUPS),
    "reward.source": (Method.VAR,),
    "reward.accept_inverted": (Method.VAR,),
    **{f"reward.{name}": (Method.VAR,) for name in ("second", "third", "caution")},
    "reward.length_control": (Method.VAR,),
    "reward.per_prompt": (Method.VAR,),
    "reward.judge": OF_POLICIES,
    "weights": (Method.VAR,),
    "draws": (Method.VAR,),
    "noise": (Method.VAR,),
    "scoring": (Method.VAR,),
    "scoring.backend": (Method.VAR, *WITH_REFERENCE),
    "online": (Method.VAR, *ON_GROUPS),
    "group": (Method.RLOO, Method.GRPO),
    **{method.value: (method,) for method in (*ON_PAIRS, Method.KTO)},
}
_AT_FIELDS = {  # the names of a sweep's and of a preview's request
    "steps": "experiment.steps",
    "seeds": "experiment.seeds",
    "lambda": "weights.lambda",
    "presets": "weights.preset",
    "overrides": "weights.preset",
    "target_ess": "weights.target_ess",
    "label_flip_share": "noise.label_flip_share",
    "reward_std": "noise.reward_std",
    "noise_seed": "noise.seed",
    "length_control": "reward.length_control",
    "per_prompt": "reward.per_prompt",
}
_SCORED_PARTS = ("dataset", "max_examples", "policy", "reward", "tokens", "training", "evaluation", "scoring", "name")


def methods_of(path: str) -> tuple[Method, ...]:
    """Return the methods that read this setting."""
    parts = path.split(".")
    known = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((_OF_METHODS[prefix] for prefix in known if prefix in _OF_METHODS), tuple(Method))


def read_order(values: Mapping[str, str]) -> Recipe | SweepRequest:
    """Return what the form asks for: one run, or a sweep of several λ, with baselines or for an experiment.

    Raises RecipeInvalid with all faults.
    """
    nested = read_settings(values)
    if values.get("experiment"):
        return read_experiment(values, nested)
    recipe = parse_recipe(nested)
    if recipe.method is not Method.VAR:
        return recipe
    lambdas, baselines = split_lambdas(values), [name for name in BASELINES if values.get(f"baseline.{name}") == "yes"]
    if len(lambdas) < 2 and not baselines:
        return recipe
    asked = {"name": recipe.name, "recipe": nested, "lambda": lambdas if len(lambdas) > 1 else [], "baselines": baselines}
    return parse_request(asked)


def read_experiment(values: Mapping[str, str], nested: Mapping[str, Any]) -> SweepRequest:
    asked = {name: as_number(text) for name in ("steps", "seeds") if (text := values.get(f"experiment.{name}", "").strip())}
    request = parse(ExperimentRequest, {"name": nested.get("name", ""), "recipe": nested, **asked}, RecipeInvalid)
    return ask(get_experiment(values["experiment"]), request)


def read_settings(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the nested settings that the method reads; of several λ the first stands in the recipe.

    A λ that is typed takes the place of the wanted effective sample size.
    """
    method = values.get("method") or Method.VAR
    fields = [field for field in RECIPE_FIELDS if method not in list(Method) or method in methods_of(field.path)]
    lambdas = split_lambdas(values)
    chosen = {"weights.lambda": lambdas[0], "weights.target_ess": "", "weights.fallback": ""} if lambdas else {}
    nested = collect(fields, {**values, **chosen})
    if method in ON_GROUPS:  # no other source knows of fresh responses
        nested["reward"] = {**nested.get("reward", {}), "source": "model"}
    elif nested.get("reward", {}).get("source") != "model":
        for name in ("model", "second", "third", "caution"):  # their inputs are hidden then
            nested.get("reward", {}).pop(name, None)
    if method == Method.SFT:
        nested["weights"] = {name: value for name in SFT_FIELDS if (value := values.get(f"sft.{name}"))}
    elif method != Method.VAR and method in list(Method):
        nested["weights"] = {}
    return nested


def tell_rates(values: Mapping[str, str]) -> str:
    """Return which learning rates the form asks for and where they come from; empty where one is given for all."""
    method, adaptation = values.get("method") or Method.VAR, values.get("policy.adaptation") or "full"
    given = values.get("training.learning_rate", "").strip()
    rate = as_number(given) if given else propose_rate(method, adaptation)
    if not isinstance(rate, float) or not math.isfinite(rate):
        return ""
    what = f"{option_text('policy.adaptation', adaptation).lower().replace('lora', 'LoRA')} under {option_text('method', method)}"
    told = [] if given else [f"{exact(rate)}, as is proposed for {what}"]
    for name in BASELINES if method == Method.VAR else ():
        asked = {"method": method, "policy": {"adaptation": adaptation}, "training": {"learning_rate": rate}}
        if values.get(f"baseline.{name}") == "yes" and (
            its := rate_beside(asked, BASELINES[name][1].get("method", Method.VAR))
        ) not in (None, rate):
            told.append(f"{exact(its)} for {BASELINES[name][0]}")
    return f"Learning rate: {'; '.join(told)}." if told else ""


def tell_price(values: Mapping[str, str]) -> str:
    """Return what draws of the reference and further batch plans cost before training; empty without either, as without VAR."""
    if (values.get("method") or Method.VAR) != Method.VAR:
        return ""
    preset = values.get("weights.preset") or DEFAULT_PRESET
    said = {**(PRESETS[Preset(preset)] if preset in list(Preset) else {}), **overrides_of(values)}
    told = []
    if takes_draws(values):
        usual = DrawsSettings()
        num = values.get("draws.num_draws", "").strip() or usual.num_draws
        longest = values.get("draws.max_new_tokens", "").strip() or usual.max_new_tokens
        if f"{num}{longest}".isdecimal():
            told.append(f"The reference answers each training prompt {num} times, with up to {longest} tokens, once for all λ.")
    plans = values.get("weights.plans", "").strip()
    if plans.isdecimal() and int(plans) > 1 and said.get("partition_scope") == "batch" and said.get("weight_form") != "reward":
        told.append(f"Each of {plans} batch plans is scored in full: scoring takes {plans} times as long.")
    return " ".join(told)


def read_scored(values: Mapping[str, str]) -> Recipe:
    """Return the recipe of the scoring that the form's settings lead to: it depends neither on λ nor on the weights.

    Raises RecipeInvalid.
    """
    nested = read_settings({**values, "method": Method.VAR, "weights.lambda": "1"})
    parts = {name: nested[name] for name in _SCORED_PARTS if name in nested}
    idle = ("accept_inverted", "length_control", "per_prompt")  # of the scores
    parts["reward"] = {name: value for name, value in parts.get("reward", {}).items() if name not in idle}
    if takes_draws(values):
        parts |= {"draws": nested["draws"]} if "draws" in nested else {}
        return parse_recipe({**parts, "weights": {"preset": Preset.DRAWS, "lambda": 1.0}})
    return parse_recipe({**parts, "weights": {"preset": Preset.REWARD_WEIGHTED, "lambda": 1.0}})


def takes_draws(values: Mapping[str, str]) -> bool:
    """Return whether Z(x) comes from draws of the reference, by the preset or against it."""
    said = [settings["partition_scope"] for preset, settings in PRESETS.items() if preset == values.get("weights.preset")]
    return "draws" in (values.get("weights.partition_scope") or said)


def read_planned(values: Mapping[str, str]) -> Recipe:
    """Return the recipe whose memory is planned: it depends on no λ. Raises RecipeInvalid."""
    return parse_recipe(read_settings({**values, "weights.lambda": "1"}))


def read_preview(values: Mapping[str, str], spread: float = 1.0) -> PreviewRequest:
    """Return the weights that the form would give, at its own λ and at a grid of the size of the rewards' `spread`.

    Raises RecipeInvalid.
    """
    asked: dict[str, Any] = {
        "presets": [values.get("weights.preset") or DEFAULT_PRESET],
        "lambda": sorted({*grid_of(1.0 if is_normalised(values) else spread), *map(as_number, split_lambdas(values))}, key=str),
        "overrides": overrides_of(values),
        "target_ess": as_number(values.get("weights.target_ess") or TARGET_ESS),
    }
    for name in ("label_flip_share", "reward_std", "noise_seed"):
        path = _AT_FIELDS[name]
        if text := values.get(path, "").strip():
            asked[name] = read(next(field for field in RECIPE_FIELDS if field.path == path), text)
    asked |= {name: True for name in ("length_control", "per_prompt") if values.get(f"reward.{name}") == "yes"}
    if all(isinstance(one, float) for one in asked["lambda"]):
        asked["lambda"].sort()
    return parse(PreviewRequest, asked, RecipeInvalid)


def grid_of(spread: float) -> list[float]:
    """Return the λ that are always shown, in units of the power of ten nearest to the spread, as λ is in units of the reward."""
    unit = 10.0 ** round(math.log10(spread)) if spread > 0 else 1.0
    return [float(f"{value * unit:.1g}") for value in PREVIEWED_LAMBDAS]


def is_normalised(values: Mapping[str, str]) -> bool:
    """Return whether the weights see rewards in their standard deviations."""
    said = [settings["reward_norm"] for preset, settings in PRESETS.items() if preset == values.get("weights.preset")]
    return "zscore" in (values.get("weights.reward_norm") or said)


def overrides_of(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the choices that were made against the preset."""
    fields = [field for field in RECIPE_FIELDS if field.path in FROM_PRESET]
    return {field.path.split(".")[1]: read(field, text) for field in fields if (text := values.get(field.path, "").strip())}


def split_lambdas(values: Mapping[str, str]) -> list[str]:
    """Return the temperatures that were typed, each once, as texts."""
    return list(dict.fromkeys(part for part in re.split(r"[,;\s]+", values.get("weights.lambda", "")) if part))


def at_fields(problems: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Faults of a recipe, a sweep or a preview at the form's own fields and in its words, each once; `told` names the field."""
    moved = [
        {**problem, "field": field_of(str(problem.get("field", ""))), "message": in_form_words(str(problem["message"]))}
        for problem in problems
    ]
    return [{**one, "told": tell(one)} for place, one in enumerate(moved) if one not in moved[:place]]


def field_of(path: str) -> str:
    path = path.removeprefix("recipe.")
    return _AT_FIELDS.get(path.split(".")[0], path)


def as_number(text: str) -> float | str:
    """Return a number; a text that isn't one stays, so that pydantic words the fault."""
    try:
        return float(text)
    except ValueError:
        return text


def clone_values(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return a recipe as form values; what the preset says anyway is left to the preset."""
    values = {"weights.fallback": "none"} | flatten(name_scale(recipe))  # recipes older than the setting
    if recipe["training"]["learning_rate"] == propose_rate(recipe.get("method", Method.VAR), recipe["policy"]["adaptation"]):
        values["training.learning_rate"] = ""  # so that another method takes its own
    if values.get("method", Method.VAR) != Method.VAR:
        plain = {path: value for path, value in values.items() if not path.startswith("weights.")}
        return STARTING_VALUES | plain | {f"sft.{name}": values[f"weights.{name}"] for name in SFT_FIELDS}
    says = flatten({"weights": PRESETS[Preset(recipe["weights"]["preset"])]})
    reused = recipe["reward"]["source"] != "model" and values["weights.cross_reward"] == "reuse"
    for path in FROM_PRESET:
        if values.get(path) == says.get(path) or (path == "weights.cross_reward" and reused):
            values[path] = ""
    return STARTING_VALUES | values


def as_asked(field: Field) -> Field:
    """Return what the preset decides starts empty, which means: as the preset says."""
    return fill(field, {field.path: ""}, []) if field.path in FROM_PRESET else field
