"""The beginnings of a few texts of a data set, read from the row groups that hold them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

EXCERPT = 240  # characters

Excerpts = Mapping[tuple[int, int], tuple[str, str]]


def read_excerpts(path: Path, wanted: Iterable[tuple[int, int]]) -> Excerpts:
    """(prompt, response) of each wanted (example_id, response), cut short; the prompt is its last turn.

    Empty when the data set's file is gone: a preview is worth having without its texts.
    """
    responses: dict[int, list[int]] = {}
    for example_id, response in wanted:
        responses.setdefault(example_id, []).append(response)
    found: dict[tuple[int, int], tuple[str, str]] = {}
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for group, rows in _locate(file, responses).items():
                table = file.read_row_group(group, columns=["example_id", "prompt", "responses"], use_threads=False)
                for row in table.take(pa.array(rows)).to_pylist():
                    found.update(_cut(row, responses[row["example_id"]]))
    except (OSError, pa.ArrowInvalid):
        return {}
    return found


def _locate(file: pq.ParquetFile, examples: Mapping[int, Any]) -> dict[int, list[int]]:
    """Return the row groups that hold the examples, with their rows in each; ids are compared before any text is read."""
    places: dict[int, list[int]] = {}
    wanted = pa.array(list(examples), pa.int64())
    for group in range(file.metadata.num_row_groups):
        ids = file.read_row_group(group, columns=["example_id"], use_threads=False).column(0)
        rows = pc.indices_nonzero(pc.is_in(ids, value_set=wanted)).to_pylist()
        if rows:
            places[group] = rows
    return places


def _cut(row: Mapping[str, Any], numbers: Iterable[int]) -> dict[tuple[int, int], tuple[str, str]]:
    prompt = row["prompt"][-1]["content"] if row["prompt"] else ""
    contents = row["responses"]
    return {
        (row["example_id"], number): (_begin(prompt), _begin(contents[number]["content"]))
        for number in numbers
        if number < len(contents)
    }


def _begin(text: str) -> str:
    return text if len(text) <= EXCERPT else f"{text[: EXCERPT - 1].rstrip()}…"
