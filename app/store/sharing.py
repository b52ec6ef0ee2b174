"""Who may see and who may change what belongs to a user: the one rule for every noun, asked by every query and every service.

A thing is seen by all members unless it is private, or is made of something that they may not see; its owner and admins see
it always. It is changed by its owner and by admins alone.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, String, and_, cast, not_, or_, select
from sqlalchemy.orm import Session, aliased

from app.domain.errors import Forbidden, NotFound
from app.store.tables import Answers, Comparison, Dataset, Model, Owned, PromptSet, RecipeTemplate, Run, Scoring, Sweep, User

Thing = TypeVar("Thing", bound=Owned)

NOBODY = ""  # may see what all members see
NOUNS: dict[type[Owned], str] = {
    Dataset: "data set", Model: "model", Run: "run", Scoring: "scoring", Sweep: "sweep", PromptSet: "prompt set",
    Answers: "set of answers", Comparison: "comparison", RecipeTemplate: "recipe template",
}  # fmt: skip


def is_admin(session: Session, user_id: str) -> bool:
    """Return whether this user is an admin, by the database."""
    user = session.get(User, user_id)
    return user is not None and user.role == "admin"


def visible_to(user_id: str, table: type[Owned], *, mine: bool = False) -> ColumnElement[bool]:
    """Return the criterion of the rows that a user may see; with `mine`, of the user's own."""
    if mine:
        return table.owner_id == user_id
    asker = _alias(User, 0)
    admin = select(asker.id).where(asker.id == user_id, asker.role == "admin").exists()
    return or_(admin, _is_visible(user_id, table, table, 0))


@cache
def _alias(table: type, depth: int) -> Any:
    """Return the alias by which a table is asked so deep within a criterion: to make one takes longer than all the rest."""
    return aliased(table, name=f"{table.__tablename__}_seen_{depth}")  # type: ignore[attr-defined]


def _is_visible(user_id: str, table: type[Owned], row: Any, depth: int) -> ColumnElement[bool]:
    """Return whether `row`, the table or an alias of it, may be seen by a user who is no admin."""
    return or_(row.owner_id == user_id, and_(row.private.is_(False), *_parts_visible(user_id, table, row, depth + 1)))


def _parts_visible(user_id: str, table: type[Owned], row: Any, depth: int) -> Iterable[ColumnElement[bool]]:
    """Yield, of each thing that a row is made of and that is still there, whether it may be seen."""
    if table is Sweep:  # what its runs are made of
        run = _alias(Run, depth)
        seen = and_(*_parts_visible(user_id, Run, run, depth + 1))
        yield ~select(run.id).where(run.sweep_id == row.id, not_(seen)).exists()
    for name, target in table.MADE_OF.items():
        of: Any = next(owned for owned in NOUNS if owned.__tablename__ == target)  # type: ignore[attr-defined]
        part = _alias(of, depth)
        hidden = and_(_names(row, name, part.id), not_(_is_visible(user_id, of, part, depth)))
        yield ~select(part.id).where(hidden).exists()


def _names(row: Any, name: str, part_id: Any) -> ColumnElement[bool]:
    """Return whether a row names a thing: in a column, at a key of a JSON column, or in a list that is one."""
    column, _, key = name.partition(".")
    found: Any = getattr(row, column)
    if key == "*":
        return cast(found, String).contains(part_id)
    named: ColumnElement[bool] = part_id == (found[key].as_string() if key else found)
    return named


def find_visible(session: Session, table: type[Thing], user_id: str, thing_id: str) -> Thing | None:
    """Return the thing, if the user may see it."""
    thing = session.get(table, thing_id)
    if thing is None or may_change(session, user_id, thing):
        return thing
    key: Any = table
    return session.scalar(select(table).where(key.id == thing_id, visible_to(user_id, table)))


def list_visible(
    session: Session, table: type[Thing], user_id: str, *, mine: bool = False, after: str | None = None, limit: int = 50
) -> list[Thing]:
    """Return the things that the user may see, or the user's own, newest first; `after` is the last id of the page before."""
    key: Any = table
    query = select(table).where(visible_to(user_id, table, mine=mine)).order_by(key.id.desc()).limit(limit)
    return list(session.scalars(query if after is None else query.where(key.id < after)))


def get_visible(session: Session, table: type[Thing], user_id: str, thing_id: str) -> Thing:
    """Return a thing that the user may see. Raises NotFound, for what is private to others too."""
    thing = find_visible(session, table, user_id, thing_id)
    if thing is None:
        raise NotFound(f"There is no {NOUNS[table]} {thing_id!r}.")
    return thing


def may_change(session: Session, user_id: str, thing: Owned) -> bool:
    """Return whether the user may change a thing, and delete it."""
    return thing.owner_id == user_id or is_admin(session, user_id)


def get_changeable(session: Session, table: type[Thing], user_id: str, thing_id: str) -> Thing:
    """Return a thing that the user may change. Raises NotFound as `get_visible`, and Forbidden for one that may only be seen."""
    thing = get_visible(session, table, user_id, thing_id)
    if not may_change(session, user_id, thing):
        name = getattr(thing, "name", thing_id)
        raise Forbidden(
            f"The {NOUNS[table]} “{name}” is {thing.owner}'s: you may see and use it, and only {thing.owner} or an admin may "
            "change it. Ask them, or make one of your own."
        )
    return thing
