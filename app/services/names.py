"""What things are called: renamed by their owners, and told apart by a number where nobody has given a name.

Runs also have tags and notes.
"""

import re
from collections.abc import Iterable
from itertools import count

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from app.domain.errors import InvalidInput
from app.domain.texts import CONTROL
from app.store.tables import Answers, Comparison, Dataset, Model, PromptSet, RecipeTemplate, Run, RunTag, Scoring, Sweep

Named = Answers | Comparison | Dataset | Model | PromptSet | RecipeTemplate | Run | Scoring | Sweep

NEWEST = 50  # names of one owner that a new one is told apart from
NUMBER = re.compile(r"(.*) \((\d{1,6})\)", re.DOTALL)
NUMBER_LENGTH = 9
MOST_TAGS, TAG_LENGTH, NOTES_LENGTH = 12, 40, 4000


def rename(row: Named, name: str) -> None:
    """Give a thing another name; what was recorded of it keeps the old one. Raises InvalidInput for one that can't be."""
    row.name = read_name(type(row), name)


def read_name(table: type[Named], name: str) -> str:
    """Return the name as it is kept. Raises InvalidInput for one that can't be."""
    longest, name = length_of(table), name.strip()
    if not 1 <= len(name) <= longest or CONTROL.search(name):
        raise InvalidInput.at("name", f"A name has 1 to {longest} characters, in one line.")
    return name


def tag(run: Run, tags: Iterable[str]) -> None:
    """Give a run these tags instead of those it has. Raises InvalidInput for one that can't be, or for too many."""
    wanted = sorted({one.strip() for one in tags if one.strip()})
    if len(wanted) > MOST_TAGS:
        raise InvalidInput.at("tags", f"A run has at most {MOST_TAGS} tags; these are {len(wanted)}.")
    for one in wanted:
        if len(one) > TAG_LENGTH or "," in one or CONTROL.search(one):
            raise InvalidInput.at("tags", f"A tag has 1 to {TAG_LENGTH} characters, in one line and without a comma.")
    known = {row.tag: row for row in run.tag_rows}
    run.tag_rows = [known.get(one) or RunTag(tag=one, owner_id=run.owner_id) for one in wanted]


def note(run: Run, text: str) -> None:
    """Write the run's notes anew. Raises InvalidInput where they are too long or hold control characters."""
    text = text.replace("\r\n", "\n").strip()
    if len(text) > NOTES_LENGTH or any(CONTROL.search(line) for line in re.split(r"[\n\t]", text)):
        raise InvalidInput.at("notes", f"Notes have at most {NOTES_LENGTH} characters, and no control characters.")
    run.notes = text


def length_of(table: type[Named]) -> int:
    """Return how long a name may be."""
    return int(table.__table__.c.name.type.length)  # type: ignore[attr-defined]


def tell_apart(session: Session, table: type[Named], owner_id: str, name: str, *kind: ColumnElement[bool]) -> str:
    """Return the generated name, with the next number where this owner's newest things of the kind have it already.

    `kind`: what narrows the table down to the kind, for runs, so that an index leads to the newest.
    """
    stem = name[: length_of(table) - NUMBER_LENGTH].rstrip()
    newest = select(table.name).where(table.owner_id == owner_id, *kind).order_by(table.id.desc()).limit(NEWEST)
    numbers = [number for taken in session.scalars(newest) if (number := number_of(taken, name, stem))]
    return f"{stem} ({max(numbers) + 1})" if numbers else name


def name_copy(session: Session, owner_id: str, original: Run) -> str:
    """Return the first of `NAME (2)`, `NAME (3)`, … that no run of this owner has."""
    stem = split_number(original.name)[0][: length_of(Run) - NUMBER_LENGTH].rstrip()
    mine = Run.owner_id == owner_id
    taken = set(session.scalars(select(Run.name).where(mine, Run.name.startswith(stem, autoescape=True))))
    return next(made for number in count(2) if (made := f"{stem} ({number})") not in taken)


def number_of(taken: str, name: str, stem: str) -> int:
    """Return 1 for the name itself, the number of a numbered one, 0 for another name."""
    if taken == name:
        return 1
    title, number = split_number(taken)
    return number or 0 if title == stem else 0


def split_number(name: str) -> tuple[str, int | None]:
    """Return "pairs" and 2 of "pairs (2)"; the name and None where it has no number."""
    found = NUMBER.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, None)
