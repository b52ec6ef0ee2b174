"""The internal form: whole or not at all, in row groups of bounded size, with dense numbers."""

import pyarrow.parquet as pq
import pytest

from app.domain.dataset import ColumnMapping
from app.domain.errors import DatasetInvalid
from app.ingest.convert import Converted
from app.ingest.examples import Candidate, UnnumberedExample
from app.ingest.ingest import ingest
from app.ingest.limits import Limits
from app.ingest.messages import Turn
from app.ingest.write import SCHEMA, ExampleWriter


def example(text: str) -> Converted:
    return Converted(3, UnnumberedExample([Turn("user", "Hi")], [Candidate(text, 1.5, 1), Candidate("no", None, -1)]), '{"a": 1}')


def test_batches_are_bounded_in_rows_and_in_characters(tmp_path):
    target = tmp_path / "examples.parquet"
    with ExampleWriter(target, Limits(batch_rows=4, batch_chars=1000)) as writer:
        for text in ["a"] * 9 + ["b" * 1000, "c"]:
            writer.write(example(text))
    file = pq.ParquetFile(target)
    assert [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)] == [4, 4, 2, 1]
    assert file.schema_arrow.equals(SCHEMA)
    rows = file.read().to_pylist()
    assert [row["example_id"] for row in rows] == list(range(11))
    assert rows[10] == {
        "example_id": 10,
        "line": 3,
        "prompt": [{"role": "user", "content": "Hi", "fields": None}],
        "responses": [
            {"content": "c", "rating": 1.5, "preference": 1, "fields": None},
            {"content": "no", "rating": None, "preference": -1, "fields": None},
        ],
        "tools": None,
        "meta": '{"a": 1}',
    }


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "examples.parquet"
    target.write_text("old")

    def write_and_fail():
        with ExampleWriter(target, Limits(batch_rows=1)) as writer:
            writer.write(example("a"))
            raise KeyError

    with pytest.raises(KeyError):
        write_and_fail()
    assert [path.name for path in tmp_path.iterdir()] == ["examples.parquet"]
    assert target.read_text() == "old"


def test_a_file_that_breaks_in_the_middle_leaves_no_examples(tmp_path):
    source = tmp_path / "source"
    source.write_text("[" + '{"prompt": "p", "chosen": "a", "rejected": "b"},' * 5000)
    with pytest.raises(DatasetInvalid):
        ingest(
            source,
            tmp_path / "examples.parquet",
            ColumnMapping(shape="pair", columns={"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}),
        )
    assert {path.name for path in tmp_path.iterdir()} == {"source", "preview.json"}
