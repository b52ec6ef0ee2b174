"""REST: whose things are, who sees them, and what is changed of each: its name, and whether it is private."""

from typing import Annotated, Any

from fastapi import Body, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.domain.errors import InvalidInput
from app.services import sharing
from app.services.names import Named, rename
from app.store.sharing import Thing
from app.store.tables import Owned


class OwnedView(BaseModel):
    """Whose it is. All members see it, unless it is private or is made of something private; owner and admins change it."""

    owner_id: str
    owner: str = Field(description="The owner's name.")
    private: bool = Field(description="Only its owner and admins see it.")


def owned(thing: Owned) -> dict[str, Any]:
    """Return the fields of an OwnedView."""
    return {name: getattr(thing, name) for name in OwnedView.model_fields}


Mine = Annotated[bool, Query(description="Only your own; otherwise all that you may see.")]
Private = Annotated[bool, Query(description="Only you and admins see it; otherwise all members do.")]

PRIVATE_FIELD = {"private": {"type": "boolean", "description": "Only you and admins see it; otherwise all members do."}}


class ThingChange(BaseModel):
    """Only what is named is changed."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, min_length=1, max_length=200, description="One line; recorded events keep the old name.")
    private: bool | None = Field(
        None, description="true: only you and admins see it. What others have made of it stays theirs and goes on."
    )


CHANGES = {
    "name": {"summary": "Another name", "value": {"name": "Kind help desk, second try"}},
    "private": {"summary": "Keep it to yourself", "value": {"private": True}},
    "shared": {"summary": "Let all members see it", "value": {"private": False}},
}
ChangeBody = Annotated[ThingChange, Body(openapi_examples=CHANGES)]


def change(session: Session, user_id: str, table: type[Thing], thing_id: str, body: ThingChange) -> Thing:
    """Return the thing with another name, or seen by others than before. Raises NotFound, Forbidden, InvalidInput."""
    if body.name is None and body.private is None:
        raise InvalidInput.at("name", 'Say what to change: "name", "private" or both.')
    thing = sharing.take(session, user_id, table, thing_id, describe(body))
    if body.name is not None:
        assert isinstance(thing, Named)
        rename(thing, body.name)
    if body.private is not None:
        sharing.set_private(session, thing, body.private)
    return thing


def describe(body: ThingChange) -> str:
    """Return a change as the log of acts tells it."""
    seen = {True: "made private", False: "shared"}.get(body.private) if body.private is not None else None
    return " and ".join(filter(None, ("renamed" if body.name is not None else None, seen)))
