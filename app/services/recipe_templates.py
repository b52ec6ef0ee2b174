"""Recipe templates: settings that are kept under a name, to begin launches from. Nothing here commits.

They are checked as a recipe is, but may leave open which data and models they are for.
"""

import copy
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app.domain.errors import Conflict, RecipeInvalid
from app.domain.recipe import parse_recipe, revive_recipe
from app.services.names import read_name
from app.services.sharing import take
from app.store.database import now
from app.store.runs import get_run
from app.store.sharing import NOBODY, find_visible
from app.store.tables import Dataset, Model, RecipeTemplate, Run
from app.system.identifiers import new_id

OPEN = "open"  # stands for a data set or model that is not chosen, while the others are checked
NAMES: dict[str, type[Dataset | Model]] = {
    "dataset": Dataset, "policy.model": Model, "reward.model": Model, "reward.second": Model, "reward.third": Model,
    "reward.judge": Model,
}  # fmt: skip


def check_settings(data: Any) -> dict[str, Any]:
    """Return a recipe's settings, each of them, as they are kept; data set and models may be missing.

    Raises RecipeInvalid with every field at fault, those that no recipe has included.
    """
    if not isinstance(data, Mapping):
        raise RecipeInvalid("A recipe is an object with its settings by name, such as method, weights and training.")
    filled, left_open = _fill_in(data)
    settings = parse_recipe(filled).to_dict()
    settings["reward"]["accept_inverted"] = False  # a consent is given to one launch
    return _take_out(settings, left_open)


def revive_settings(template: RecipeTemplate) -> dict[str, Any]:
    """Return what a template keeps, with the settings that came later as runs of its time have them."""
    filled, left_open = _fill_in(template.recipe)
    return _take_out(revive_recipe(filled).to_dict(), left_open)


def create(session: Session, owner_id: str, name: str, recipe: Any, *, private: bool = False) -> RecipeTemplate:
    """Return a new template of these settings. Raises as `check_settings`, and InvalidInput for a name that can't be."""
    settings = {**check_settings(recipe), "name": ""}
    template = RecipeTemplate(
        id=new_id("template"), owner_id=owner_id, private=private, name=read_name(RecipeTemplate, name), recipe=settings,
        created_at=now(session),
    )  # fmt: skip
    session.add(template)
    session.flush()
    return template


def keep_run(session: Session, owner_id: str, run_id: str, name: str = "", *, private: bool = False) -> RecipeTemplate:
    """Return a new template of a run's recipe, by the run's name unless given; that of a run which others don't see is private.

    Raises NotFound; Conflict for a run without a recipe.
    """
    run = get_run(session, owner_id, run_id)
    if not run.recipe:
        raise Conflict(f"Run “{run.name}” follows no recipe that could be kept: it answers prompts.")
    is_hidden = find_visible(session, Run, NOBODY, run.id) is None
    recipe = revive_recipe(run.recipe).to_dict()
    return create(session, owner_id, name.strip() or run.name, recipe, private=private or is_hidden)


def delete(session: Session, user_id: str, template_id: str) -> None:
    """Forget a template; what was launched from it stays. Raises NotFound, Forbidden."""
    session.delete(take(session, user_id, RecipeTemplate, template_id, "deleted"))


def find_absent(session: Session, user_id: str, settings: Mapping[str, Any]) -> list[str]:
    """Return the fields that name a data set or a model which is not there any more, or which the user may not see."""
    return [
        path
        for path, table in NAMES.items()
        if (key := _look_up(settings, path)) and find_visible(session, table, user_id, str(key)) is None
    ]


def _look_up(settings: Mapping[str, Any], path: str) -> Any:
    part, _, name = path.partition(".")
    found = settings.get(part)
    return found.get(name) if name and isinstance(found, Mapping) else None if name else found


def _fill_in(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings with something at the places of data set and models that are left open, and these places."""
    filled = copy.deepcopy(dict(data))
    wanted = ["dataset", "policy.model"]
    if _look_up(filled, "reward.source") == "model":
        wanted.append("reward.model")
    left_open = [path for path in wanted if _look_up(filled, path) in (None, "")]
    for path in left_open:
        part, _, name = path.partition(".")
        place = filled.setdefault(part, {}) if name else filled
        if isinstance(place, dict):
            place[name or part] = OPEN
    return filled, left_open


def _take_out(settings: dict[str, Any], left_open: list[str]) -> dict[str, Any]:
    for path in left_open:
        part, _, name = path.partition(".")
        (settings[part] if name else settings).pop(name or part)
    return settings
