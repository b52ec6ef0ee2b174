"""Whether a recipe can be launched: its data set is ready and holds what the recipe needs, its models exist and fit; and what the
runner is told of it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from sqlalchemy.orm import Session

from app.domain.dataset import Audit, DatasetState
from app.domain.errors import RecipeInvalid
from app.domain.jobs import ModelSource
from app.domain.recipe import Method, Recipe, find_idle_keeping, find_idle_settings
from app.domain.run import RunKind, describe_shortage
from app.domain.scoring import ScoringFacts, describe_inverted
from app.domain.signatures import SIGNATURES
from app.domain.training.methods import NEED_PAIRS
from app.domain.training.settings import find_kto_fault, tell_missing_pairs
from app.domain.weighting import find_idle_draws, refuse_tiny
from app.store import scorings
from app.store.files.files import Files
from app.store.sharing import find_visible
from app.store.tables import Dataset, Model, Scoring
from app.store.workers import find_most_places

HEADS = ("lm_head", "embed_out")  # of the families' language models
NOT_READY = {
    DatasetState.PROCESSING: "is still being read: launch when it is ready",
    DatasetState.NEEDS_MAPPING: "needs a mapping of its columns first: open its page",
    DatasetState.FAILED: "could not be read: open its page for the reason",
}


@dataclass
class Ingredients:
    """The rows a recipe speaks of; `models` by their part (policy, reward, judge); the scoring that is there already."""

    dataset: Dataset
    models: dict[str, Model]
    scoring: Scoring | None = None


@dataclass
class Faults:
    """Faults by field, gathered so that all are shown at once."""

    found: list[dict[str, str]] = field(default_factory=list)

    def add(self, path: str, message: str) -> None:
        self.found.append({"field": path, "message": message})

    def raise_any(self) -> None:
        if self.found:
            more = f" ({len(self.found)} faults in all)" if len(self.found) > 1 else ""
            raise RecipeInvalid(self.found[0]["message"] + more, problems=self.found)


def find_ingredients(session: Session, user_id: str, recipe: Recipe, *, kind: RunKind = RunKind.TRAINING) -> Ingredients:
    """Return the data set and models of a recipe, such as the user may see.

    Raises RecipeInvalid with the dotted field of everything that doesn't fit.

    What only training needs, such as rewards that don't contradict the labels, is not asked of a scoring.
    """
    refuse_tiny(recipe.weights.lambda_, recipe.scoring.smallest_lambda)
    faults = Faults()
    dataset = _find_dataset(session, user_id, recipe, kind, faults)
    models = {}
    for part, role, path, model_id in (
        ("policy", "policy", "policy.model", recipe.policy.model),
        ("reward", "reward", "reward.model", recipe.reward.model),
        *((path, "reward", path, model_id) for path, model_id in recipe.reward.further.items()),
        ("judge", "reward", "reward.judge", recipe.reward.judge),
    ):
        model = _find_model(session, user_id, model_id, role, path, faults)
        if model is not None:
            models[part] = model
    _check_prompts(recipe, models.get("policy"), faults)
    _check_ensemble(models, faults)
    scoring = None
    if kind is RunKind.SCORING and (idle := find_idle_draws(recipe.weights, recipe.method)):
        faults.add(*idle)
    if kind is RunKind.TRAINING:
        _check_targets(recipe, models.get("policy"), faults)
        scoring = scorings.find_for(session, user_id, recipe)
        for path, message in find_idle_settings(recipe):
            faults.add(path, message)
        _check_rewards(recipe, scoring, faults)
        _check_processes(session, recipe, faults)
    faults.raise_any()
    assert dataset is not None  # or there was a fault
    return Ingredients(dataset, models, scoring)


def freeze_date(recipe: Recipe, models: Iterable[Model], day: date) -> Recipe:
    """Return the recipe with the day that its chat templates take for today, where one writes it: all attempts are alike then."""
    if recipe.tokens.template_date or not any(model.facts.get("writes_date") for model in models):
        return recipe
    return recipe.model_copy(update={"tokens": recipe.tokens.model_copy(update={"template_date": day})})


def _check_prompts(recipe: Recipe, policy: Model | None, faults: Faults) -> None:
    if policy is not None and recipe.tokens.prompt_format == "chat" and policy.facts.get("has_chat_template") is False:
        faults.add(
            "tokens.prompt_format",
            f"The tokenizer of “{policy.name}” has no chat template: set tokens.prompt_format to auto or plain.",
        )


def _check_ensemble(models: Mapping[str, Model], faults: Faults) -> None:
    """A reward model that is named twice, under two names; other copies of the same weights are known to the worker alone."""
    known: dict[tuple[str | None, ...], Model] = {}
    for part in ("reward", "reward.second", "reward.third"):
        model = models.get(part)
        if model is None:
            continue
        place = ("run", model.facts["run_id"]) if model.facts.get("run_id") else (model.source, model.path, model.revision)
        if place in known:
            twin = f"“{model.name}” is the model “{known[place].name}”"
            faults.add(part, f"{twin}, so the two agree: name one that was trained apart.")
        known[place] = model


def _check_targets(recipe: Recipe, policy: Model | None, faults: Faults) -> None:
    """An adapter on layers that the policy lacks; where its layers are not known here, the worker looks before it scores."""
    path, layers = "policy.lora.target_modules", policy.facts.get("layers") if policy is not None else None
    targets = recipe.policy.lora.target_modules
    if recipe.policy.adaptation != "lora" or not layers or isinstance(targets, str):
        return
    given = {name: ".".join("*" if part.isdigit() else part for part in name.split(".")) for name in targets}
    if heads := [name for name, pattern in given.items() if pattern.split(".")[-1] in HEADS]:
        faults.add(path, f"The language-model head ({heads[0]}) can't carry an adapter: leave it out.")
    missing = [
        name
        for name, pattern in given.items()
        if name not in ("all-linear", *heads) and not any(f".{layer}".endswith(f".{pattern}") for layer in layers)
    ]
    if missing and policy is not None:
        there = ", ".join(dict.fromkeys(layer.split(".")[-1] for layer in layers if layer.split(".")[-1] not in HEADS))
        faults.add(path, f"LoRA can't be put on {', '.join(missing)}: “{policy.name}” has no such layer. It has {there}.")


def _check_rewards(recipe: Recipe, scoring: Scoring | None, faults: Faults) -> None:
    """Rewards that are known to contradict the labels need the user's word: most often something is the wrong way round."""
    if recipe.method is not Method.VAR or recipe.reward.accept_inverted or scoring is None or scoring.facts is None:
        return
    check = ScoringFacts.model_validate(scoring.facts).check
    if check.inverted:
        remedy = SIGNATURES["inverted_rewards"].remedy
        faults.add(
            "reward.accept_inverted", f"{describe_inverted(check)} {remedy} To launch anyway, set reward.accept_inverted to true."
        )


def _check_processes(session: Session, recipe: Recipe, faults: Faults) -> None:
    """Where no worker is known, a run may wait for a large one; the workers themselves refuse what is too large for them all."""
    if recipe.training.num_processes == 1:
        return  # every worker has one place
    most = find_most_places(session)
    if most is not None and recipe.training.num_processes > most:
        faults.add("training.num_processes", describe_shortage(recipe.training.num_processes, most))


def _find_dataset(session: Session, user_id: str, recipe: Recipe, kind: RunKind, faults: Faults) -> Dataset | None:
    dataset = find_visible(session, Dataset, user_id, recipe.dataset)
    if dataset is None:
        faults.add("dataset", f"There is no data set {recipe.dataset!r}: choose one from your list.")
        return None
    if dataset.state != DatasetState.READY:
        faults.add("dataset", f"The data set “{dataset.name}” {NOT_READY[DatasetState(dataset.state)]}.")
        return None
    audit = Audit.model_validate(dataset.audit or {})
    if recipe.method is Method.VAR or kind is RunKind.SCORING:
        _check_source(recipe, dataset, audit, faults)
    _check_contents(recipe, dataset, audit, faults)
    if kind is RunKind.TRAINING:
        _check_training(recipe, dataset, audit, faults)
        _check_keeping(recipe, audit, faults)
    return dataset


def _check_source(recipe: Recipe, dataset: Dataset, audit: Audit, faults: Faults) -> None:
    """Rewards that the data don't hold; the other methods read none of theirs."""
    name = f"The data set “{dataset.name}”"
    if recipe.reward.source == "rating" and not audit.has_rating:
        instead = "the preference label or " if audit.has_preference else ""
        faults.add("reward.source", f"{name} has no ratings: use {instead}a reward model, or map a rating column.")
    if recipe.reward.source == "preference" and not audit.has_preference:
        instead = "the rating or " if audit.has_rating else ""
        faults.add("reward.source", f"{name} doesn't say which responses were preferred: use {instead}a reward model.")


def _check_contents(recipe: Recipe, dataset: Dataset, audit: Audit, faults: Faults) -> None:
    name = f"The data set “{dataset.name}”"
    num_examples = min(audit.num_examples, recipe.max_examples or audit.num_examples)
    if num_examples - int(num_examples * recipe.evaluation.share) < 1:
        faults.add("evaluation.share", f"{name} has {num_examples} examples, which leaves none to train on.")


def _check_training(recipe: Recipe, dataset: Dataset, audit: Audit, faults: Faults) -> None:
    name = f"The data set “{dataset.name}”"
    if recipe.method in NEED_PAIRS and audit.num_pairs == 0:
        faults.add("method", f"{name} {tell_missing_pairs(recipe.method, audit.has_preference)}")
    labels = audit.facts.get("labels", {})
    only_pairs = 0 < audit.num_examples == audit.num_pairs
    if recipe.method is Method.KTO and (
        idle := find_kto_fault(recipe.kto, labels.get("chosen"), labels.get("rejected"), only_pairs)
    ):
        faults.add(idle[0], f"{name} {idle[1]}")
    if recipe.weights.responses == "chosen" and not audit.has_preference:
        faults.add("weights.responses", f"{name} has no chosen responses to train on: use both.")
    has_draws = recipe.weights.partition_scope == "draws"
    per_prompt = recipe.reward.per_prompt and recipe.method is Method.VAR and not has_draws
    if per_prompt and audit.num_responses <= audit.num_examples:
        faults.add(
            "reward.per_prompt",
            f"{name} has one response per prompt, which has no deviation from itself: set reward.per_prompt to false, or take "
            "another data set.",
        )
    weights = recipe.weights
    uses_partition = weights.weight_form != "reward" and weights.partition_scope == "prompt" and recipe.online.every is None
    if recipe.method is Method.VAR and uses_partition and audit.num_responses <= audit.num_examples:
        faults.add(
            "weights.partition_scope",
            f"{name} has one response per prompt and no pairs, so weights within a prompt are all alike: "
            "use the scope batch, or another data set.",
        )


def _check_keeping(recipe: Recipe, audit: Audit, faults: Faults) -> None:
    """A rule that could not do anything even if no row were held out or dropped; the worker, which knows them, looks again."""
    num_examples = min(audit.num_examples, recipe.max_examples or audit.num_examples)
    num_batches, settings = math.ceil(num_examples / recipe.training.batch_size), recipe.training
    num_steps = settings.steps or max(1, math.ceil((settings.epochs or 1.0) * num_batches))
    if idle := find_idle_keeping(recipe, num_steps):
        faults.add(*idle)


def _find_model(session: Session, user_id: str, model_id: str | None, kind: str, path: str, faults: Faults) -> Model | None:
    if model_id is None:
        return None
    model = find_visible(session, Model, user_id, model_id)
    if model is None:
        faults.add(path, f"There is no model {model_id!r}: choose one from your list, or register it first.")
        return None
    if model.kind != kind:
        wanted = {"policy": "a policy (a causal language model)", "reward": "a reward model (it scores a text)"}[kind]
        faults.add(path, f"“{model.name}” is registered as a {model.kind} model, but {wanted} is needed here.")
        return None
    return model


def describe_recipe(session: Session, files: Files, recipe: Recipe) -> dict[str, Any]:
    """Return a RunSpec's own part. Raises RecipeInvalid when the data set or a model is gone."""
    dataset = session.get(Dataset, recipe.dataset)
    if dataset is None:
        raise RecipeInvalid.at("dataset", f"The data set {recipe.dataset!r} was deleted.")
    return {
        "recipe": recipe,
        "dataset_path": str(files.dataset_dir(dataset.id) / "examples.parquet"),
        "dataset_sha256": dataset.sha256,
        "policy": find_source(session, files, "policy.model", recipe.policy.model, recipe.policy.revision),
        "reward": find_source(session, files, "reward.model", recipe.reward.model, recipe.reward.revision),
        "further": [find_source(session, files, path, model, None) for path, model in recipe.reward.further.items()],
        "judge": find_source(session, files, "reward.judge", recipe.reward.judge, None),
        "scorings_dir": str(files.scorings_dir),
    }


def find_source(session: Session, files: Files, field: str, model_id: str | None, revision: str | None) -> ModelSource | None:
    """Return where a model's files are. Raises RecipeInvalid, at `field`, when it was deleted."""
    if model_id is None:
        return None
    model = session.get(Model, model_id)
    if model is None:
        raise RecipeInvalid.at(field, f"The model {model_id!r} was deleted.")
    if model.source == "hub":
        return ModelSource(source="hub", path=model.path, revision=revision or model.revision)
    if model.source == "folder":
        return ModelSource(source="folder", path=str(files.place_of(model.path)))
    kept = files.model_dir(model.id)  # a run's result, kept by the studio: in the data folder of whoever asks
    found = kept if kept.is_dir() else files.place_of(model.path)
    return ModelSource(source="folder", path=str(found), name=f"{model.facts.get('run_id', model.name)}/model")
