"""REST: the log of acts. Sign-ins, tokens and what admins did; admins see all of it, others what concerns themselves."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from app.domain.errors import InvalidInput
from app.services import users
from app.services.acts import KINDS
from app.store import accounts as store
from app.web.api.paging import After, Limit, Page, to_page
from app.web.dependencies import CurrentActor, ReadSession

router = APIRouter(prefix="/acts", tags=["accounts"])


class ActView(BaseModel):
    """Who did what, when, and from where."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["act_01kb4y7v3m2q8d5n6c9t0r1x2z"])
    at: datetime
    kind: str = Field(description=f"One of {', '.join(KINDS)}.")
    actor_id: str | None = Field(description="null: nobody who is known, or somebody at the server.")
    actor: str = Field(description="The name at that time.")
    address: str = Field(description="The client's address, or “command line”.")
    user_id: str | None = Field(description="Whose account it is about, if any.")
    text: str


@router.get("", operation_id="list_acts", summary="Read the log of sign-ins, tokens and admins' acts")
def list_acts(
    session: ReadSession, actor: CurrentActor, after: After = None, limit: Limit = 50,
    user_id: Annotated[str | None, Query(max_length=40, description="Only what this user did, or was done about them.")] = None,
    kind: Annotated[str | None, Query(max_length=32, examples=["sign_in_failed"])] = None,
) -> Page[ActView]:  # fmt: skip
    """Newest first. Admins see all, others what they did themselves or what was done about their account."""
    if kind is not None and kind not in KINDS:
        raise InvalidInput.at("kind", f'There is no kind of act "{kind}"; there are {", ".join(KINDS)}.')
    of = users.find_user(session, actor, user_id).id if user_id else None if actor.is_admin else actor.id
    rows = store.list_acts(session, of=of, kind=kind, after=after, limit=limit + 1)
    return to_page(rows, limit, ActView.model_validate, lambda row: row.id)
