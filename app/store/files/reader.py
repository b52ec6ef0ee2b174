"""The child process that reads our own Parquet files for the pages: `python -m app.store.files.reader`.

Job: {"path", "start", "limit"} gives the rows from number `start` on, fewer where they are large; {"path", "column", "value"}
those with that value.
Reply: {"rows": [...]}, or {"missing": true} when there is no such file.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.system.child import read_jobs

Rows = list[dict[str, Any]]
MAX_BYTES = 2 * 2**20  # of one reply's rows, but at least one row: whoever asked parses it while others wait


def main() -> None:
    """Answer until stdin ends."""
    for line, reply in read_jobs():
        reply(answer(json.loads(line)))


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Return the reply to one job."""
    path = Path(job["path"])
    try:
        rows = read_range(path, job["start"], job["limit"]) if "start" in job else read_value(path, job["column"], job["value"])
    except FileNotFoundError:
        return {"missing": True}
    return {"rows": rows}


def read_range(path: Path, start: int, limit: int) -> Rows:
    """At most `limit` rows from `start` on, as many as MAX_BYTES hold; only the row groups that hold them are read."""
    found: Rows = []
    bytes_left = MAX_BYTES
    with pq.ParquetFile(path, pre_buffer=False) as file:
        first = 0
        for index in range(file.metadata.num_row_groups):
            num_rows = file.metadata.row_group(index).num_rows
            if first + num_rows > start:
                group = file.read_row_group(index, use_threads=False)
                wanted = group.slice(max(start - first, 0), limit - len(found))
                fitting = cut(wanted, bytes_left)
                found.extend(fitting.to_pylist() or ([] if found else wanted.slice(0, 1).to_pylist()))
                bytes_left -= fitting.nbytes
                if fitting.num_rows < wanted.num_rows:
                    break
            first += num_rows
            if len(found) >= limit:
                break
    return found


def cut(rows: pa.Table, max_bytes: int) -> pa.Table:
    """Return the first rows, about as many as so many bytes hold."""
    num_rows: int = rows.num_rows
    while num_rows and rows.slice(0, num_rows).nbytes > max_bytes:
        num_rows //= 2
    return rows.slice(0, num_rows)


def read_value(path: Path, column: str, value: int) -> Rows:
    """Return the rows whose `column` is `value`."""
    rows: Rows = pq.read_table(path, filters=[(column, "=", value)], use_threads=False).to_pylist()
    return rows


if __name__ == "__main__":
    main()
