"""Things of one among many: taken for a change by who may, made private or shared again, kept while others use them.

Nothing here commits. The rule itself is in app.store.sharing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.errors import Conflict
from app.services import acts
from app.services.acts import Actor
from app.store.accounts import get_user_by_id
from app.store.sharing import NOUNS, Thing, get_changeable, is_admin, visible_to
from app.store.tables import Answers, Comparison, Owned, Run, Scoring, Sweep


def take(session: Session, user_id: str, table: type[Thing], thing_id: str, deed: str) -> Thing:
    """Return a thing for a change, `deed`, which the log of acts tells of where an admin does it to another's.

    Raises NotFound for what the user may not see, Forbidden for what belongs to another.
    """
    thing = get_changeable(session, table, user_id, thing_id)
    if thing.owner_id != user_id:
        owner = get_user_by_id(session, thing.owner_id)
        text = f"The {NOUNS[table]} {thing_id} of {owner.name}: {deed}."
        acts.record(session, Actor(user_id, is_admin=True), "thing_changed", text, about=owner)
    return thing


def set_private(session: Session, thing: Owned, private: bool) -> None:
    """Keep a thing to its owner and admins, or let all members see it again; a sweep takes its runs along, answers theirs.

    What others have made of it stays theirs, and goes on.
    """
    thing.private = private
    if isinstance(thing, Sweep | Answers):
        column = Run.sweep_id if isinstance(thing, Sweep) else Run.answers_id
        for run in session.scalars(select(Run).where(column == thing.id)):
            run.private = private


@dataclass(frozen=True)
class Uses:
    """What is in the way of a deletion: how many things, those that the user may see (id, name), and whose the others are."""

    num: int
    shown: list[tuple[str, str]]
    of_others: str

    @property
    def name(self) -> str:
        """The name of the only one, as a sentence has it."""
        return f"“{self.shown[0][1]}”" if self.shown else "of another"

    def refuse(self, detail: str, noun: str) -> Conflict:
        """Return the refusal, which lists what is in use."""
        return Conflict.in_use(" ".join(filter(None, (detail, self.of_others))), noun, self.shown, num=self.num)


def describe_uses(session: Session, user_id: str, table: type[Thing], ids: Sequence[str]) -> Uses:
    """Return who uses what is to be deleted; nothing that is private to another is named."""
    rows = session.scalars(select(table).where(table.id.in_(ids)).order_by(table.id.desc())).all()  # type: ignore[attr-defined]
    seen = set(session.scalars(select(table.id).where(table.id.in_(ids), visible_to(user_id, table))))  # type: ignore[attr-defined]
    shown = [(row.id, row.name) for row in rows if row.id in seen]  # type: ignore[attr-defined]
    others = [] if is_admin(session, user_id) else [row for row in rows if row.owner_id != user_id]
    if not others:
        return Uses(len(rows), shown, "")
    whose = ", ".join(sorted({row.owner for row in others}))
    are = "is" if len(others) == 1 else "are"
    return Uses(len(rows), shown, f"{len(others)} of these {are} {whose}'s, to be deleted by them or an admin alone.")


def refuse_used(
    session: Session, user_id: str, what: str, users: Iterable[tuple[str, type[Run | Scoring | Comparison], Sequence[str]]]
) -> None:
    """Raise Conflict where something uses what is to be deleted; `users`: what each kind is called, and the ids of those."""
    for noun, table, ids in users:
        if ids:
            uses = describe_uses(session, user_id, table, ids)
            which, them = (f"{uses.num} {noun}s use", f"{noun}s") if uses.num > 1 else (f"The {noun} {uses.name} uses", noun)
            raise uses.refuse(f"{which} {what}. Delete the {them} first.", noun)
