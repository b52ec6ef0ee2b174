"""Small files made by hand, ingested in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from app.domain.dataset import Audit, ColumnMapping, Shape
from app.ingest.ingest import ingest
from app.ingest.limits import Limits


class Read(NamedTuple):
    """What became of a file."""

    shape: Shape
    mapping: ColumnMapping
    audit: Audit
    examples: list[dict[str, Any]]

    @property
    def dropped(self) -> dict[str, list[int]]:
        """Line numbers by reason."""
        return {item.reason: item.lines for item in self.audit.dropped}

    def pairs(self) -> list[tuple[str, str]]:
        """First and second response of each example."""
        return [tuple(response["content"] for response in example["responses"][:2]) for example in self.examples]

    def prompts(self) -> list[list[tuple[str, str]]]:
        return [[(turn["role"], turn["content"]) for turn in example["prompt"]] for example in self.examples]


@pytest.fixture
def read_bytes(tmp_path: Path) -> Callable[..., Read]:
    """Ingest a file of these bytes; checks that no row is lost on the way."""

    def read(content: bytes, mapping: dict[str, Any] | None = None, name: str = "source", limits: Limits | None = None) -> Read:
        source, target = tmp_path / name, tmp_path / "examples.parquet"
        source.write_bytes(content)
        done = ingest(source, target, ColumnMapping.model_validate(mapping) if mapping else None, limits)
        assert done.audit.num_rows == done.audit.num_kept_rows + sum(item.count for item in done.audit.dropped)
        return Read(done.mapping.shape, done.mapping, done.audit, pq.read_table(target).to_pylist())

    return read


@pytest.fixture
def read_rows(read_bytes: Callable[..., Read]) -> Callable[..., Read]:
    """Ingest these rows, written as JSON lines."""

    def read(*rows: Any, mapping: dict[str, Any] | None = None) -> Read:
        return read_bytes("".join(json.dumps(row) + "\n" for row in rows).encode(), mapping)

    return read
