"""Recipe templates: the list, the page of one with its settings, and a run's recipe kept as one."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response

from app.services import recipe_templates as service
from app.store.sharing import get_visible, list_visible
from app.store.tables import RecipeTemplate
from app.web.dependencies import CurrentUser, ReadSession, WriteSession
from app.web.pages.launch.beginning import as_file
from app.web.pages.launch.summary import Chip, list_chips
from app.web.recipes import clone_values
from app.web.rendering.environment import Context, go_to, render
from app.web.rendering.form_words import BY_PATH

router = APIRouter()

PAGE_SIZE = 30


@dataclass(frozen=True, kw_only=True)
class RecipeTemplatesPage(Context):
    template = "recipe_templates/list.html"

    templates: list[tuple[RecipeTemplate, dict[str, Any]]]  # each with its settings
    mine: bool
    after: str
    next_after: str


@dataclass(frozen=True, kw_only=True)
class RecipeTemplatePage(Context):
    template = "recipe_templates/recipe_template.html"

    kept: RecipeTemplate
    recipe: dict[str, Any]
    chips: list[Chip]
    absent: list[str]


@router.get("/recipe-templates")
def list_templates(
    request: Request, session: ReadSession, user: CurrentUser, mine: bool = False,
    after: Annotated[str, Query(max_length=60)] = "",
) -> HTMLResponse:  # fmt: skip
    found = list_visible(session, RecipeTemplate, user.id, mine=mine, after=after or None, limit=PAGE_SIZE + 1)
    next_after = found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else ""
    shown = [(one, service.revive_settings(one)) for one in found[:PAGE_SIZE]]
    return render(request, RecipeTemplatesPage(templates=shown, mine=mine, after=after, next_after=next_after))


@router.get("/recipe-templates/{recipe_template_id}")
def show_template(request: Request, session: ReadSession, user: CurrentUser, recipe_template_id: str) -> HTMLResponse:
    kept = get_visible(session, RecipeTemplate, user.id, recipe_template_id)
    recipe = service.revive_settings(kept)
    chips, absent = list_chips(clone_values(recipe)), list_absent(session, user.id, recipe)
    return render(request, RecipeTemplatePage(kept=kept, recipe=recipe, chips=chips, absent=absent))


def list_absent(session: ReadSession, user_id: str, recipe: dict[str, Any]) -> list[str]:
    """Return what the form calls the settings that name something which the user can't choose."""
    return [f"“{BY_PATH[path].label}”" for path in service.find_absent(session, user_id, recipe)]


@router.get("/recipe-templates/{recipe_template_id}/recipe.json")
def download_template(session: ReadSession, user: CurrentUser, recipe_template_id: str) -> Response:
    """The settings as a file, which the launch form imports and the terminal launches."""
    kept = get_visible(session, RecipeTemplate, user.id, recipe_template_id)
    return as_file(service.revive_settings(kept), kept.name)


@router.post("/recipe-templates/{recipe_template_id}/delete")
def delete_template(request: Request, session: WriteSession, user: CurrentUser, recipe_template_id: str) -> Response:
    service.delete(session, user.id, recipe_template_id)
    return go_to(request, "/recipe-templates")


@router.post("/runs/{run_id}/keep")
def keep_run(request: Request, session: WriteSession, user: CurrentUser, run_id: str) -> Response:
    """The new template's page, where it can be called otherwise."""
    return go_to(request, f"/recipe-templates/{service.keep_run(session, user.id, run_id).id}")
