"""An example before it gets its number, and how a row's columns reach the converters."""

import json
from typing import Any, NamedTuple

from app.domain.dataset import CHOSEN, NEITHER, REJECTED, ColumnMapping
from app.ingest import rows
from app.ingest.columns import SHAPE_ROLES, names_of, pick
from app.ingest.messages import SYSTEM, USER, Turn, check_prompt, conversation, read_text
from app.ingest.rows import Dropped
from app.ingest.texts.fields import refuse_media
from app.ingest.texts.plain import LABEL_CHARS, clean_text, is_label
from app.ingest.texts.tagged import TaggedTexts, Tags
from app.ingest.texts.templated import strip_template

META_KEYS = 20
JSON = json.JSONEncoder(allow_nan=False)
DIALOGUES = frozenset(
    ("prompt", "conversations", "messages", "chosen", "rejected", "response", "response_a", "response_b", "instruction")
)  # parts that may hold messages
PARTS_IN_SEVERAL = frozenset(role.name for roles in SHAPE_ROLES.values() for role in roles if role.many)


class Candidate(NamedTuple):
    """One response."""

    content: str
    rating: float | None = None
    preference: int | None = None
    fields: str | None = None


def candidate(turn: Turn, rating: float | None = None) -> Candidate:
    """Return a turn as a response."""
    return Candidate(turn.content, rating, None, turn.fields)


class UnnumberedExample(NamedTuple):
    """One example; `notes` are counted in the audit."""

    prompt: list[Turn]
    answers: list[Candidate]
    notes: tuple[str, ...] = ()
    tools: str | None = None


Cells = dict[str, Any]  # what a row holds for each part of the mapping


class Columns:
    """A mapping made ready for many rows."""

    def __init__(self, mapping: ColumnMapping) -> None:
        self.shape = mapping.shape
        self.options = mapping.options
        self.paths = {role: names_of(columns) for role, columns in mapping.columns.items() if columns}
        self.roots = {path.split(".")[0] for paths in self.paths.values() for path in paths}
        tags = Tags(*(str(self.options.get(f"{role}_tag", "")) for role in Tags._fields))
        self._tagged = TaggedTexts(tags) if any(tag.strip() for tag in tags) else None
        self.written: dict[str, Any] = {}  # by column: messages that the row read last holds as text
        self._strips = self.options.get("strip_template") is True

    def read(self, row: dict[str, Any]) -> Cells:
        """Return the row's cells by part; messages written as text are messages there. Raises Dropped."""
        cells: Cells = {}
        self.written = {}
        for role, paths in self.paths.items():
            if role in PARTS_IN_SEVERAL:
                cells[role] = [pick(row, path) for path in paths]
                continue
            value = pick(row, paths[0])
            if isinstance(value, str) and role in DIALOGUES:
                value = self._read_text(value)
                if not isinstance(value, str):
                    self.written[paths[0]] = value
            elif self._strips and isinstance(value, list) and role in ("responses", "chosen", "rejected"):
                value = [strip_template(item) if isinstance(item, str) else item for item in value]
            cells[role] = value
        refuse_media(row, cells)
        return cells

    def _read_text(self, text: str) -> Any:
        found = read_text(text)
        if isinstance(found, str) and self._strips:
            found = strip_template(found)
        if isinstance(found, str) and self._tagged:
            found = self._tagged.read(found)
        return found

    def has(self, *roles: str) -> bool:
        """Return whether all these roles are mapped."""
        return all(role in self.paths for role in roles)

    def values(self, option: str, default: str) -> frozenset[str]:
        """Return the label values that an option lists."""
        return frozenset(part.strip().lower() for part in str(self.options.get(option, default)).split(",") if part.strip())

    def meta(self, row: dict[str, Any]) -> str:
        """Whatever else the row carried and is worth showing: numbers, booleans and short texts, as a JSON object."""
        kept: dict[str, Any] = {}
        for key, value in row.items():
            if value is None or key in self.roots or len(kept) == META_KEYS:
                continue
            if isinstance(value, bool | int | float) or (isinstance(value, str) and is_label(value)):
                kept[key[:LABEL_CHARS]] = value
        try:
            return JSON.encode(kept) if kept and all(is_label(key) for key in kept) else "{}"
        except ValueError:
            return "{}"  # a float that JSON does not have, from Parquet


def prompt_of(cells: Cells, role: str = "prompt") -> list[Turn]:
    """Return the prompt with its second part, history and system message. Raises Dropped."""
    turns = conversation(cells.get(role))
    extra = cells.get("input")
    if extra is not None and clean_text(extra).strip():
        if turns[-1].role != USER:
            raise Dropped(rows.NOT_MESSAGES)
        turns = [*turns[:-1], Turn(USER, f"{turns[-1].content}\n\n{extra}")]
    return with_system(cells, check_prompt([*history_of(cells.get("history")), *turns]))


def history_of(value: Any) -> list[Turn]:
    """Earlier turns from a list of [question, answer]."""
    if not value:
        return []
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise Dropped(rows.NOT_MESSAGES)
    return [Turn(role, clean_text(text)) for pair in value for role, text in zip((USER, "assistant"), pair, strict=True)]


def with_system(cells: Cells, turns: list[Turn]) -> list[Turn]:
    """Return the prompt after the system message of its own column, if there is one."""
    text = cells.get("system")
    if text is None or not clean_text(text).strip():
        return turns
    return [Turn(SYSTEM, text), *(turn for turn in turns if turn.role != SYSTEM)]


def pair(prompt: list[Turn], chosen: Candidate, rejected: Candidate, notes: tuple[str, ...] = ()) -> UnnumberedExample:
    """Return a chosen and a rejected response; identical ones tell nothing and are dropped."""
    if are_alike(chosen, rejected):
        raise Dropped(rows.IDENTICAL)
    return UnnumberedExample(prompt, [chosen._replace(preference=CHOSEN), rejected._replace(preference=REJECTED)], notes)


def are_alike(one: Candidate, other: Candidate) -> bool:
    """Return whether two responses say the same, but for white space around it."""
    return one.content.strip() == other.content.strip() and one.fields == other.fields


def by_rating(prompt: list[Turn], answers: list[Candidate], notes: tuple[str, ...] = ()) -> UnnumberedExample:
    """Responses sorted by rating, best first. Best: chosen, worst: rejected, in between or all alike: neither."""
    ratings = [answer.rating for answer in answers if answer.rating is not None]
    best, worst = max(ratings), min(ratings)
    if best == worst:
        return UnnumberedExample(prompt, [answer._replace(preference=NEITHER) for answer in answers], (*notes, "tie"))
    marks = {best: CHOSEN, worst: REJECTED}
    marked = [answer._replace(preference=marks.get(answer.rating or 0.0, NEITHER)) for answer in answers]
    return UnnumberedExample(prompt, sorted(marked, key=lambda answer: -(answer.rating or 0.0)), notes)
