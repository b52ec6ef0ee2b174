"""What is changed on the page of each thing: its name, and who sees it."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from app.domain.errors import NotFound
from app.services import names as service
from app.services.sharing import set_private, take
from app.store.tables import Answers, Comparison, Dataset, Model, PromptSet, RecipeTemplate, Run, Scoring, Sweep
from app.web.dependencies import CurrentUser, WriteSession
from app.web.rendering.environment import go_to

router = APIRouter()

TABLES: dict[str, type[Any]] = {
    "runs": Run, "datasets": Dataset, "models": Model, "scorings": Scoring, "sweeps": Sweep,
    "comparisons": Comparison, "answers": Answers, "prompt-sets": PromptSet,
    "recipe-templates": RecipeTemplate,
}  # fmt: skip


@router.post("/{noun}/{key}/share")
def share(
    request: Request, session: WriteSession, user: CurrentUser, noun: str, key: str, private: Annotated[bool, Form()]
) -> Response:
    """Kept to its owner and admins, or shared with all members; then its page again."""
    thing = take(session, user.id, find_table(noun), key, "made private" if private else "shared")
    set_private(session, thing, private)
    return go_to(request, f"/{noun}/{key}")


@router.post("/{noun}/{key}/rename")
def rename(
    request: Request, session: WriteSession, user: CurrentUser, noun: str, key: str,
    name: Annotated[str, Form(max_length=400)] = "",
) -> Response:  # fmt: skip
    """Then its page again."""
    service.rename(take(session, user.id, find_table(noun), key, "renamed"), name)
    return go_to(request, f"/{noun}/{key}")


def find_table(noun: str) -> type[Any]:
    """Raises NotFound for what is no noun of the studio."""
    if noun not in TABLES:
        raise NotFound("There is nothing at this address.")
    return TABLES[noun]
