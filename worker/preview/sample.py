"""Examples of a data set for a look: one by its number, or a sample that is spread evenly over the file."""

from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.domain.errors import NotFound
from worker.models.prompts import Prompted
from worker.models.template import ChatTurn

MOST_SAMPLED = 2_000
MOST_GROUPS = 64  # of a Parquet file's row groups that a sample reads
MOST_CHARACTERS = 12_000_000  # of a sample, but for the example that goes beyond
STRIDE = 8
COLUMNS = ("line", "prompt", "responses", "tools")

Row = Mapping[str, Any]


def open_examples(path: Path) -> pq.ParquetFile:
    """Raises NotFound."""
    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise NotFound("The data set's examples are not there any more: read its file again.") from error


def read_row(file: pq.ParquetFile, number: int) -> Row | None:
    """Return the example of this number, from 0; None beyond the last."""
    for group in range(file.metadata.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if number < size:
            row: Row = _read_group(file, group).slice(number, 1).to_pylist()[0]
            return row
        number -= size
    return None


def draw_sample(file: pq.ParquetFile, max_examples: int | None) -> Iterator[Row]:
    """Yield at most MOST_SAMPLED of the first examples, spread evenly over them; it ends early after MOST_CHARACTERS."""
    characters = 0
    chosen = _choose(file, max_examples)
    for start in range(STRIDE):  # so that what comes before an early end is spread as well
        for group, rows in chosen[start::STRIDE]:
            for row in _read_group(file, group).take(pa.array(rows)).to_pylist():
                yield row
                characters += _count_characters(row)
                if characters > MOST_CHARACTERS:
                    return


def count_examples(file: pq.ParquetFile, max_examples: int | None) -> int:
    """Return how many examples there are, of the first `max_examples`."""
    total = int(file.metadata.num_rows)
    return total if max_examples is None else min(total, max_examples)


def _choose(file: pq.ParquetFile, max_examples: int | None) -> list[tuple[int, list[int]]]:
    """Return row groups, each with the rows to take of it."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    left, groups = count_examples(file, max_examples), []
    for group, size in enumerate(sizes):
        if left > 0:
            groups.append((group, min(size, left)))
        left -= size
    groups = [groups[k] for k in spread(len(groups), MOST_GROUPS)]
    starts = [0, *accumulate(size for _, size in groups)]
    numbers = spread(starts[-1], MOST_SAMPLED)
    taken = [[k - start for k in numbers if start <= k < stop] for start, stop in pairwise(starts)]
    return [(group, rows) for (group, _), rows in zip(groups, taken, strict=True) if rows]


def _read_group(file: pq.ParquetFile, group: int) -> pa.Table:
    present = [name for name in COLUMNS if name in file.schema_arrow.names]
    return file.read_row_group(group, columns=present, use_threads=False)


def _count_characters(row: Row) -> int:
    return sum(len(message["content"]) for message in (*row["prompt"], *row["responses"]))


def as_prompted(row: Row) -> Prompted:
    """Return an example with all its answers."""
    turns = tuple(ChatTurn(message["role"], message["content"], message.get("fields") or "") for message in row["prompt"])
    answers = [ChatTurn("assistant", response["content"], response.get("fields") or "") for response in row["responses"]]
    return Prompted(turns, answers, row.get("tools") or "")


def spread(total: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `total`, evenly spread."""
    return list(range(total)) if total <= most else [k * total // most for k in range(most)]
