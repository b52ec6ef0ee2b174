"""What the first rows of a file look like: columns, the kinds of their values, and a preview that is safe to show."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from app.domain.texts import make_keepable
from app.ingest.messages import TAGGED, is_message, is_transcript, read_text
from app.ingest.rows import Dropped
from app.ingest.texts.plain import is_label
from app.ingest.texts.tagged import find_tags
from app.ingest.texts.written import is_written_list, read_literal

MAX_SHOWN_COLUMNS = 100
PREVIEW_ROWS = 5
PREVIEW_CHARS = 300
TEXT, TRANSCRIPT, NUMBER, BOOLEAN, MESSAGE, MESSAGES = "text", "transcript", "number", "boolean", "message", "message list"
TEXTS, NUMBERS, TURNS, LISTS, OBJECT, OBJECTS, LIST, OTHER = (
    "list of texts", "list of numbers", "list of tagged turns", "list of lists", "object", "list of objects", "list", "other",
)  # fmt: skip

WRITTEN = "message list written as text"


def kind_of(value: Any) -> str | None:
    """Return what a value is, in the words shown in the mapping form; None for null and for empty texts and lists."""
    if value is None or value in ("", [], {}):
        return None
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int | float):
        return NUMBER
    if isinstance(value, str):
        if is_written_list(value) and read_literal(value) is None:
            return WRITTEN
        return TRANSCRIPT if is_transcript(value) else TEXT
    if isinstance(value, dict):
        return MESSAGE if is_message(value) else OBJECT
    return kind_of_list(value) if isinstance(value, list) else OTHER


def kind_of_list(value: list[Any]) -> str:
    """Return the kind of a list that is not empty."""
    if all(is_message(item) for item in value):
        return MESSAGES
    if all(isinstance(item, str) for item in value):
        return TURNS if all(TAGGED.match(item) for item in value) else TEXTS
    if all(isinstance(item, int | float) and not isinstance(item, bool) for item in value):
        return NUMBERS
    if all(isinstance(item, dict) for item in value):
        return OBJECTS
    return LISTS if all(isinstance(item, list) for item in value) else LIST


def read_cell(value: Any) -> Any:
    """Return the messages that a text holds; anything else, and texts that can't be read as such, as they are."""
    try:
        return read_text(value) if isinstance(value, str) else value
    except Dropped:
        return value


class Column:
    """One column as the first rows show it."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.values: set[str] = set()
        self.example = ""
        self._seen = 0

    def add(self, value: Any) -> None:
        """Count one value."""
        kind = kind_of(value)
        if kind is None:
            return
        self.kinds[kind] += 1
        self.example = self.example or show(value)
        if kind in (TEXT, NUMBER, BOOLEAN) and len(self.values) < 50:
            self.values.add(plain(value))

    @property
    def kind(self) -> str:
        """The kind of most values; "empty" when there is none."""
        return self.kinds.most_common(1)[0][0] if self.kinds else "empty"

    def is_only(self, *kinds: str) -> bool:
        """Return whether there are values and all are of these kinds."""
        return bool(self.kinds) and set(self.kinds) <= set(kinds)


def plain(value: Any) -> str:
    """Return a label value as options write it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower()[:80]


class Survey:
    """The columns of a sample of rows, nested fields under dotted names."""

    def __init__(self, sample: Sequence[dict[str, Any]]) -> None:
        self.sample = [{name: read_cell(value) for name, value in row.items()} for row in sample]
        self.columns: dict[str, Column] = {}
        for row in self.sample:
            for name, value in row.items():
                self._add(name, value)

    def _add(self, name: str, value: Any) -> None:
        if not is_label(name):
            return  # a name that can be neither shown nor stored: half a surrogate pair, NUL, or a whole paragraph
        column = self.columns.get(name)
        if column is None:
            if len(self.columns) >= 5000:
                return
            column = self.columns[name] = Column()
        column.add(value)
        if isinstance(value, dict) and not is_message(value) and name.count(".") < 3:
            for key, inner in value.items():
                self._add(f"{name}.{key}", inner)
        elif isinstance(value, list) and value and name.count(".") < 2 and kind_of_list(value) == OBJECTS:
            for key in dict.fromkeys(key for item in value[:16] for key in item):
                self._add(f"{name}.{key}", [item.get(key) for item in value])

    def kind(self, name: str) -> str:
        """Return the kind of a column; "" when there is none of that name."""
        return self.columns[name].kind if name in self.columns else ""

    def top(self) -> list[str]:
        """Return the columns that are not nested."""
        return [name for name in dict.fromkeys(name for row in self.sample for name in row) if name in self.columns]

    def tags(self, names: Collection[str] | None = None) -> dict[str, str]:
        """Return the tags under which most texts of a column are dialogues, as options; {} where there is no such column."""
        for name in self.top():
            if names is None or name in names:
                texts = [text for row in self.sample if isinstance(text := row.get(name), str) and not is_transcript(text)]
                if texts and (tags := find_tags(texts)):
                    return {"user_tag": tags.user, "assistant_tag": tags.assistant}
        return {}

    def describe(self) -> list[dict[str, str]]:
        """Return the columns for the mapping form: name, type, an example."""
        return [
            {"name": show(name), "type": column.kind, "example": column.example}
            for name, column in list(self.columns.items())[:MAX_SHOWN_COLUMNS]
        ]

    def preview(self) -> list[dict[str, str]]:
        """Return the first rows as short texts."""
        return [
            {show(name): show(value) for name, value in list(row.items())[:MAX_SHOWN_COLUMNS]}
            for row in self.sample[:PREVIEW_ROWS]
        ]


def show(value: Any) -> str:
    """Return a value as a short text without characters that can't be stored or shown."""
    text = str(make_keepable(shallow(value).encode("utf-8", "replace").decode()))
    return text if len(text) <= PREVIEW_CHARS else text[: PREVIEW_CHARS - 1] + "…"


def shallow(value: Any, depth: int = 3) -> str:
    """Like repr, but never long."""
    if isinstance(value, str):
        return value[: PREVIEW_CHARS + 1]
    if isinstance(value, dict) and depth:
        return "{" + ", ".join(f"{str(k)[:80]}: {shallow(v, depth - 1)}" for k, v in list(value.items())[:8]) + "}"
    if isinstance(value, list) and depth:
        return "[" + ", ".join(shallow(item, depth - 1) for item in value[:8]) + "]"
    return "…" if isinstance(value, dict | list) else str(value)[: PREVIEW_CHARS + 1]
