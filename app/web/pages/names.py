"""Renaming, from the page of a run, a data set, a model, a scoring or a sweep."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.services import names as service
from app.services.names import Named
from app.store.answering.answers import get_answers
from app.store.answering.prompt_sets import get_prompt_set
from app.store.comparing.comparisons import get_comparison
from app.store.datasets import get_dataset
from app.store.models import get_model
from app.store.runs import get_run
from app.store.scorings import get_scoring
from app.store.sweeps import get_sweep
from app.web.dependencies import CurrentUser, WriteSession
from app.web.rendering.environment import go_to

router = APIRouter()

FINDERS: dict[str, Callable[[Session, str, str], Named]] = {
    "runs": get_run, "datasets": get_dataset, "models": get_model, "scorings": get_scoring, "sweeps": get_sweep,
    "comparisons": get_comparison, "answers": get_answers, "prompt-sets": get_prompt_set,
}  # fmt: skip


@router.post("/{noun}/{key}/rename")
def rename(
    request: Request, session: WriteSession, user: CurrentUser, noun: str, key: str,
    name: Annotated[str, Form(max_length=400)] = "",
) -> Response:  # fmt: skip
    """Then its page again."""
    if noun not in FINDERS:
        raise NotFound("There is nothing at this address.")
    service.rename(FINDERS[noun](session, user.id, key), name)
    return go_to(request, f"/{noun}/{key}")
