"""What kept rows carry and no part of the mapping uses: columns, and fields of messages. One look at each row, memory bounded."""

from collections import Counter
from collections.abc import Collection
from typing import Any

from app.domain.texts import is_keepable
from app.ingest.examples import Columns
from app.ingest.messages import content_key, holds_parts, is_message, read_keys, role_of
from app.ingest.texts.fields import PART_KEYS, part_key

MAX_NAMES = 500
OTHERS = "(other names)"
NODE_KEYS = frozenset(("text", "role", "replies", "rank", "deleted"))


class UnusedFields:
    """Counts by name: `source` is a column, `meta.source` a field of a used one, `chosen[].weight` one of its messages."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.num_developer = 0
        self._counts: Counter[str] = Counter()
        self._nested: dict[str, set[str]] = {}  # of columns that are used by their fields alone: those fields
        for paths in columns.paths.values():
            for root, _, rest in (path.partition(".") for path in paths):
                if rest:
                    self._nested.setdefault(root, set()).add(rest.partition(".")[0])

    def add(self, row: dict[str, Any]) -> None:
        """Count what this row holds and is not used."""
        for name, value in row.items():
            if value is None or value == "" or value == [] or value == {}:
                continue
            if name not in self.columns.roots:
                self._count(name)
            else:
                self._look_into(name, self.columns.written.get(name, value))

    def counts(self) -> dict[str, int]:
        """Return how many rows or messages hold each, the most frequent first."""
        return dict(self._counts.most_common())

    def _count(self, name: str) -> None:
        shown = name if len(name) <= 200 and is_keepable(name) else OTHERS
        if len(self._counts) >= MAX_NAMES and shown not in self._counts:
            shown = OTHERS
        self._counts[shown] += 1

    def _look_into(self, name: str, value: Any) -> None:
        open_values = [(name, value)]
        while open_values:
            path, found = open_values.pop()
            if isinstance(found, list):
                open_values.extend((path + "[]", item) for item in found if isinstance(item, dict) and not self._is_plain(item))
            elif isinstance(found, dict):
                replies = found.get("replies")
                if replies:
                    open_values.append((path.removesuffix("[]"), replies))
                self._count_fields(path, found, self._known(name, found))
                key = content_key(found)
                if is_message(found) and holds_parts(role_of(found), found.get(key)):
                    self._look_into_parts(f"{path}.{key}", found.get(key))

    def _look_into_parts(self, path: str, content: Any) -> None:
        """Count what a message's content in parts holds beside its texts."""
        open_values = [(path, content)]
        while open_values:
            path, found = open_values.pop()
            if isinstance(found, list):
                open_values.extend((path + "[]", part) for part in found)
            elif isinstance(found, dict):
                key = part_key(found)
                self._count_fields(path, found, PART_KEYS.get(str(found.get("type")), ("type", key)))
                open_values.append((f"{path}.{key}", found.get(key)))

    def _is_plain(self, found: dict[str, Any]) -> bool:
        """Return whether this is a message of a role and a text and nothing else, as most are."""
        if len(found) != 2 or "role" not in found or not isinstance(found.get("content"), str):
            return False
        self.num_developer += found["role"] == "developer"
        return True

    def _known(self, name: str, found: dict[str, Any]) -> Collection[str]:
        if "replies" in found:
            return NODE_KEYS
        if is_message(found):
            self.num_developer += found.get("role") == "developer"
            return read_keys(found)
        return self._nested.get(name, found)

    def _count_fields(self, path: str, found: dict[str, Any], known: Collection[str]) -> None:
        for key, inner in found.items():
            if key not in known and inner is not None and inner != "" and inner != [] and inner != {}:
                self._count(f"{path}.{key}")
