"""Parquet files are read by a child, so that the web never loads pyarrow."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.domain.errors import Unavailable
from app.store.files import parquet


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"batch": [0, 0, 1, 1, 2, 2, 3], "text": list("abcdefg")}), path, row_group_size=2)
    return path


def test_a_range_may_span_row_groups_and_end_early(table):
    assert [row["text"] for row in parquet.read_range(table, 1, 4)] == list("bcde")
    assert [row["text"] for row in parquet.read_range(table, 6, 4)] == ["g"]
    assert parquet.read_range(table, 7, 4) == []


def test_rows_are_found_by_value(table):
    assert [row["text"] for row in parquet.read_value(table, "batch", 1)] == ["c", "d"]
    assert parquet.read_value(table, "batch", 9) == []


def test_a_missing_file_is_told_apart_from_a_broken_one(table):
    with pytest.raises(FileNotFoundError):
        parquet.read_range(table.with_name("nothing.parquet"), 0, 1)
    table.write_bytes(b"PAR1 no more")
    with pytest.raises(Unavailable, match=r"rows\.parquet could not be read"):
        parquet.read_range(table, 0, 1)


def test_large_rows_come_in_pieces_that_others_need_not_wait_for(tmp_path):
    """As many as two megabytes hold, but always one."""
    path, text = tmp_path / "large.parquet", "x" * 2**20
    sizes = [1, 1, 1, 5, 1, 0, 0]  # in megabytes
    pq.write_table(pa.table({"number": range(7), "text": [text * size for size in sizes]}), path, row_group_size=4)
    pieces, start = [], 0
    while rows := parquet.read_range(path, start, 100):
        pieces.append([row["number"] for row in rows])
        assert sum(len(row["text"]) for row in rows) <= 2 * 2**20 or len(rows) == 1
        start += len(rows)
    assert [number for piece in pieces for number in piece] == list(range(7))
    assert [3] in pieces


def test_a_reader_that_died_is_replaced(table):
    parquet.read_range(table, 0, 1)
    assert parquet._reader is not None
    parquet._reader.kill()
    parquet._reader.stop()
    assert len(parquet.read_range(table, 0, 3)) == 3


def test_reading_loads_no_pyarrow_into_this_process(table):
    code = "import sys; from pathlib import Path; from app.store.files import parquet; "
    code += "print(len(parquet.read_range(Path(sys.argv[1]), 0, 9)), 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(table)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["7", "False"]
