"""What a launch form is filled from: a preset, a template, or a recipe that comes as a file or as pasted text.

Nothing of it is passed over in silence: what no recipe has is refused by its name, what is not here or not said is told.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import yaml
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.domain.errors import InvalidInput
from app.domain.problems import PREDICATES
from app.domain.recipe import EvaluationSettings
from app.domain.statistics.resolution import ENOUGH
from app.services.recipe_templates import check_settings, find_absent, revive_settings
from app.store.answering.answers import list_judgements
from app.store.datasets import find_origin
from app.store.sharing import find_visible, get_visible, list_visible
from app.store.tables import Answers, Dataset, Model, RecipeTemplate
from app.system.numbers import counted, percent
from app.web.recipes import STARTING_VALUES, clone_values
from app.web.rendering.fields import RECIPE_FIELDS, flatten
from app.web.rendering.form_words import BY_PATH

MOST_TEMPLATES = 200
LARGEST_SHARE = 0.3  # proposed to be held out
MOST_NAMED = 12  # settings that a file doesn't say
CHOSEN = (  # what a launch is of
    "dataset", "policy.model", "reward.model", "reward.second", "reward.third", "reward.judge", "name", "private",
)  # fmt: skip
ELSEWHERE = {  # what other trainers call a setting
    "model_name_or_path": "policy.model", "finetuning_type": "policy.adaptation", "use_peft": "policy.adaptation",
    "per_device_train_batch_size": "training.batch_size", "num_train_epochs": "training.epochs", "max_steps": "training.steps",
    "learning_rate": "training.learning_rate", "lr_scheduler_type": "training.schedule", "warmup_ratio": "training.warmup_share",
    "weight_decay": "training.weight_decay", "max_grad_norm": "training.grad_clip", "seed": "training.seed",
    "gradient_checkpointing": "policy.gradient_checkpointing", "bf16": "policy.dtype", "torch_dtype": "policy.dtype",
    "lora_rank": "policy.lora.rank", "lora_r": "policy.lora.rank", "lora_alpha": "policy.lora.alpha",
    "lora_dropout": "policy.lora.dropout", "lora_target": "policy.lora.target_modules",
    "lora_target_modules": "policy.lora.target_modules", "beta": "dpo.beta", "pref_beta": "dpo.beta",
    "max_prompt_length": "tokens.max_prompt", "max_completion_length": "tokens.max_response", "cutoff_len": "tokens.max_response",
    "eval_steps": "evaluation.every", "save_steps": "training.checkpoint_every", "max_samples": "max_examples",
    "reward_model_path": "reward.model", "reward_model": "reward.model", "dataset_name": "dataset",
}  # fmt: skip


@dataclass(frozen=True)
class BeginningNote:
    """What came of filling the form, or of keeping what is in it."""

    title: str
    tone: str = ""  # "good", "warn" or "bad"
    lines: list[str] = field(default_factory=list)
    link: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class StartingPoints:
    """What the form offers to begin from, and what was pasted."""

    mine: list[RecipeTemplate]
    of_others: list[RecipeTemplate]
    note: BeginningNote | None = None
    text: str = ""
    name: str = ""  # of the template that is to be kept


def list_starting_points(
    session: Session, user_id: str, values: Mapping[str, str], note: BeginningNote | None = None
) -> StartingPoints:
    found = list_visible(session, RecipeTemplate, user_id, limit=MOST_TEMPLATES)
    mine = [one for one in found if one.owner_id == user_id]
    others = [one for one in found if one.owner_id != user_id]
    return StartingPoints(mine, others, note, values.get("import.text", ""), values.get("template.name", ""))


def begin_with_template(
    session: Session, user_id: str, template_id: str, values: Mapping[str, str]
) -> tuple[dict[str, str], BeginningNote | None]:
    """Return the form's values with all that a template says, and what of it is not here. Raises NotFound."""
    template = get_visible(session, RecipeTemplate, user_id, template_id)
    filled, lines = fill(session, user_id, revive_settings(template), values)
    return filled, BeginningNote(f"From the template “{template.name}”", "warn", lines) if lines else None


def begin_with_dataset(
    session: Session, user_id: str, dataset_id: str, values: Mapping[str, str]
) -> tuple[dict[str, str], BeginningNote | None]:
    """Return the form's values with a data set; of one that was made of judged answers, also who answered and who judged, and
    a held-out share that its final figures can be trusted with.
    """
    chosen = {**values, "dataset": dataset_id}
    dataset = find_visible(session, Dataset, user_id, dataset_id)
    answers = find_origin(session, user_id, dataset) if dataset else None
    if dataset is None or dataset.made_from is None or not isinstance(answers, Answers):
        return chosen, None
    lines = []
    own_id = answers.model_id if answers.model.get("source") == "model" else None
    policy = find_visible(session, Model, user_id, own_id) if own_id else None
    if policy is not None:
        chosen["policy.model"] = policy.id
        lines.append(f"The policy is {policy.name}, whose answers these are.")
    judge = find_judge(session, user_id, answers.id, dataset.made_from["judge"])
    if judge is not None:
        chosen |= {"reward.source": "model", "reward.model": judge.id}
        lines.append(f"Rewards come from {judge.name}, which has judged them.")
    share = propose_share(dataset.num_examples)
    if share > EvaluationSettings().share:
        chosen["evaluation.share"] = f"{share:g}"
        lines.append(f"{percent(share)} of the examples are held out: with fewer, chance decides the final figures.")
    return chosen, BeginningNote(f"Filled for data made from “{answers.name}”", "good", lines) if lines else None


def find_judge(session: Session, user_id: str, answers_id: str, key: str) -> Model | None:
    """Return the reward model behind a judge of answers, where it is one that the user may see."""
    judge = next((one.judge for one in list_judgements(session, [answers_id]) if one.key == key), {})
    return find_visible(session, Model, user_id, str(judge["model"])) if judge.get("kind") == "reward" else None


def propose_share(num_examples: int) -> float:
    """Return the share to hold out of so many examples for a test set that is large enough, at most `LARGEST_SHARE`."""
    wanted = ENOUGH / (EvaluationSettings().test_share * max(1, num_examples))
    return min(LARGEST_SHARE, math.ceil(wanted * 20) / 20)


def begin_with_text(session: Session, user_id: str, text: str, values: Mapping[str, str]) -> tuple[dict[str, str], BeginningNote]:
    """Return the form's values with a recipe's text. Raises InvalidInput with everything in it that no recipe has."""
    given = read_text(text)
    settings = check_settings(given)
    filled, lines = fill(session, user_id, settings, values)
    return filled, BeginningNote("The form is filled from the recipe", "warn" if lines else "good", [*tell_taken(given), *lines])


def fill(
    session: Session, user_id: str, settings: Mapping[str, Any], values: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return the values of these settings, and a sentence for each data set or model that is not here; what is chosen in the form
    stays where the settings leave it open.
    """
    said = {path: value for path, value in clone_values(settings).items() if value or path not in CHOSEN}
    absent = find_absent(session, user_id, settings)
    lines = [f"{BY_PATH[path].label}: {said.pop(path)} is not here, or is private to another. Choose one." for path in absent]
    kept = {path: values[path] for path in CHOSEN if values.get(path)}
    return STARTING_VALUES | kept | said, lines


def tell_taken(given: Mapping[str, Any]) -> list[str]:
    """Return how much of a recipe a text says: a whole one of an older version lacks a few settings, which are named."""
    said = flatten(given)
    unsaid = [one.label for one in RECIPE_FIELDS if one.path not in said and one.path not in CHOSEN]
    num_said = sum(one.path in said for one in RECIPE_FIELDS)
    if not unsaid:
        return [f"All {counted(num_said, 'setting')} are taken from it."]
    which = f": {', '.join(unsaid)}" if len(unsaid) <= MOST_NAMED else ""
    taken = f"{counted(num_said, 'setting')} {'is' if num_said == 1 else 'are'} taken from it"
    return [f"{taken}; {len(unsaid)} that it doesn't say are as in a new form{which}."]


def told_faults(problems: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a recipe's faults as sentences that name the field as the text has it."""
    return [_tell_fault(str(one.get("field", "")), str(one["message"])) for one in problems]


def _tell_fault(path: str, message: str) -> str:
    name = path.rsplit(".", 1)[-1]
    if message.startswith("There is no setting called"):
        return f"{path} is no setting of a recipe" + (f"; here it is {ELSEWHERE[name]}." if name in ELSEWHERE else ".")
    if not path or path == "import":
        return message
    return f"{path}: {message[:1].lower()}{message[1:]}" if message.startswith(PREDICATES) else f"{path}: {message}"


def read_text(text: str) -> Mapping[str, Any]:
    """Return the settings in a text, JSON or YAML. Raises InvalidInput with the line at fault, and for what it says twice."""
    if not text.strip():
        raise InvalidInput.at("import", "There is no recipe: choose a file, or paste its text.")
    try:
        is_json = text.lstrip().startswith("{")
        found = json.loads(text, object_pairs_hook=_once) if is_json else RecipeLoader(text).get_single_data()
    except json.JSONDecodeError as error:
        raise InvalidInput.at("import", f"The text is no JSON: {error.msg} in line {error.lineno}.") from None
    except yaml.YAMLError as error:
        mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        where = f", line {mark.line + 1}" if mark else ""
        raise InvalidInput.at("import", f"The text is neither JSON nor YAML{where}: {why}.") from None
    except ValueError:
        raise InvalidInput.at("import", "The text holds a number of too many digits.") from None
    except RecursionError:
        raise InvalidInput.at("import", "The text is nested too deeply to be a recipe.") from None
    if not isinstance(found, dict):
        raise InvalidInput.at("import", "The text is no recipe: settings by name, such as method, weights and training.")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidInput.at("import", f"The text says {name[:80]} twice: leave one of them.")
        found[name] = value
    return found


class RecipeLoader(yaml.SafeLoader):
    """Plain YAML: no references, which a recipe doesn't need, and nothing twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise InvalidInput.at("import", "The text has references (* and &): write the settings out.")
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError):  # of a value that is not as its tag says
            kind = str(node.tag).rsplit(":", 1)[-1]
            raise yaml.constructor.ConstructorError(None, None, f"this can't be read as {kind}", node.start_mark) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        read = partial(self.construct_object, deep=True)
        return _once([(str(read(key)), read(value)) for key, value in node.value])


def as_file(recipe: Mapping[str, Any], name: str) -> Response:
    """Return a recipe as a download, by its name."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "recipe"
    content = json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"
    headers = {"content-disposition": f'attachment; filename="{stem}.json"'}
    return Response(content, media_type="application/json", headers=headers)
