"""What is changed on the page of a run, a data set, a model, a scoring or a sweep: its name."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from app.domain.errors import NotFound
from app.services import names as service
from app.services.sharing import take
from app.store.tables import Answers, Comparison, Dataset, Model, PromptSet, Run, Scoring, Sweep
from app.web.dependencies import CurrentUser, WriteSession
from app.web.rendering.environment import go_to

router = APIRouter()

TABLES: dict[str, type[Any]] = {
    "runs": Run, "datasets": Dataset, "models": Model, "scorings": Scoring, "sweeps": Sweep,
    "comparisons": Comparison, "answers": Answers, "prompt-sets": PromptSet,
}  # fmt: skip


@router.post("/{noun}/{key}/rename")
def rename(
    request: Request, session: WriteSession, user: CurrentUser, noun: str, key: str,
    name: Annotated[str, Form(max_length=400)] = "",
) -> Response:  # fmt: skip
    """Then its page again."""
    if noun not in TABLES:
        raise NotFound("There is nothing at this address.")
    service.rename(take(session, user.id, TABLES[noun], key, "renamed"), name)
    return go_to(request, f"/{noun}/{key}")
