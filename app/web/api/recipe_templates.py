"""REST: recipe templates. Settings kept under a name, to begin launches from."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from pydantic import BaseModel, ConfigDict, Field

from app.domain.errors import InvalidInput
from app.services import recipe_templates as service
from app.store.sharing import get_visible, list_visible
from app.store.tables import RecipeTemplate
from app.web.api.paging import After, Limit, Page, to_page
from app.web.api.sharing import ChangeBody, Mine, OwnedView, Private, change, owned
from app.web.dependencies import CurrentUser, ReadSession, WriteSession

router = APIRouter(prefix="/recipe-templates", tags=["recipe-templates"])

ID = "template_01kb4y7v3m2q8d5n6c9t0r1x2z"


class RecipeTemplateView(OwnedView):
    """A template with its settings."""

    id: str = Field(examples=[ID])
    name: str
    recipe: dict[str, Any] = Field(description="Every setting of a recipe; data set and models only where they were chosen.")
    created_at: datetime


class NewRecipeTemplate(BaseModel):
    """What is kept: settings, or the recipe of a run."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("", max_length=120, description="May be empty for a run's recipe: then it is the run's.")
    recipe: dict[str, Any] | None = Field(
        None, description="Settings as a launch takes them; `dataset`, `policy.model` and `reward.model` may be missing."
    )
    run: str | None = Field(None, max_length=80, description="Instead: a run that you may see.")


EXAMPLES = {
    "recipe": {
        "summary": "Settings for any data and models",
        "value": {
            "name": "Within prompts, half of each batch",
            "recipe": {"weights": {"preset": "within_prompt", "target_ess": 0.5}, "training": {"batch_size": 16}},
        },
    },
    "run": {"summary": "A run's recipe", "value": {"run": "run_01kb4y7v3m2q8d5n6c9t0r1x2z"}},
}


def show(template: RecipeTemplate) -> RecipeTemplateView:
    settings, made = service.revive_settings(template), template.created_at
    return RecipeTemplateView(**owned(template), id=template.id, name=template.name, recipe=settings, created_at=made)


@router.post("", status_code=201, operation_id="create_recipe_template", summary="Keep a recipe as a template")
def create_recipe_template(
    body: Annotated[NewRecipeTemplate, Body(openapi_examples=EXAMPLES)], session: WriteSession, user: CurrentUser,
    response: Response, private: Private = False,
) -> RecipeTemplateView:  # fmt: skip
    """Checked as a launch checks it; what no recipe has is refused by its name. The recipe of a private run is private."""
    if (body.recipe is None) == (body.run is None):
        raise InvalidInput.at("recipe", "Give the settings as recipe, or name a run whose recipe is kept.")
    if body.run is not None:
        made = service.keep_run(session, user.id, body.run, body.name, private=private)
    else:
        made = service.create(session, user.id, body.name, body.recipe, private=private)
    response.headers["location"] = f"/api/v1/recipe-templates/{made.id}"
    return show(made)


@router.get("", operation_id="list_recipe_templates", summary="List recipe templates")
def list_recipe_templates(
    session: ReadSession, user: CurrentUser, mine: Mine = False, after: After = None, limit: Limit = 50
) -> Page[RecipeTemplateView]:
    """Newest first, all that you may see."""
    rows = list_visible(session, RecipeTemplate, user.id, mine=mine, after=after, limit=limit + 1)
    return to_page(rows, limit, show, lambda row: row.id)


@router.get("/{recipe_template_id}", operation_id="get_recipe_template", summary="Get a recipe template")
def get_recipe_template(session: ReadSession, user: CurrentUser, recipe_template_id: str) -> RecipeTemplateView:
    """With all its settings, which a launch takes as they are once data set and models are named."""
    return show(get_visible(session, RecipeTemplate, user.id, recipe_template_id))


@router.patch(
    "/{recipe_template_id}",
    operation_id="change_recipe_template",
    summary="Rename a template, make it private, or share it",
)
def change_recipe_template(
    session: WriteSession, user: CurrentUser, recipe_template_id: str, body: ChangeBody
) -> RecipeTemplateView:
    """Its settings stay; keep others under another name."""
    return show(change(session, user.id, RecipeTemplate, recipe_template_id, body))


@router.delete(
    "/{recipe_template_id}", status_code=204, operation_id="delete_recipe_template", summary="Delete a recipe template"
)
def delete_recipe_template(session: WriteSession, user: CurrentUser, recipe_template_id: str) -> None:
    """What was launched from it stays."""
    service.delete(session, user.id, recipe_template_id)
