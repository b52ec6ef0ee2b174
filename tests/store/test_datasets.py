"""Rows of the internal form as examples: with what messages carry beside their text, and from files older than that."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.ingest.convert import Converted
from app.ingest.examples import Candidate, UnnumberedExample
from app.ingest.limits import Limits
from app.ingest.messages import Turn
from app.ingest.write import ExampleWriter
from app.store import datasets
from app.store.files.files import Files

CALL = {"tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"town": "Ulm"}}}]}


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.fixture
def target(files):
    path = datasets.examples_path(files, "data_1")
    path.parent.mkdir(parents=True)
    return path


def test_calls_and_tools_come_back_as_they_were_written(files, target):
    call, thought = json.dumps(CALL), '{"reasoning_content":"hm"}'
    prompt = [Turn("user", "Rain?"), Turn("assistant", "", call)]
    draft = UnnumberedExample(prompt, [Candidate("No.", None, 1, thought)], tools='[{"name":"weather"}]')
    with ExampleWriter(target, Limits()) as writer:
        writer.write(Converted(1, draft, "{}"))
    (example,) = datasets.read_examples(files, "data_1")
    assert [message.fields for message in example.prompt] == [{}, CALL]
    assert example.responses[0].fields == {"reasoning_content": "hm"}
    assert example.tools == [{"name": "weather"}]


def test_a_file_without_fields_and_tools_is_read_as_having_none(files, target):
    row = {
        "example_id": 0, "line": 1, "prompt": [{"role": "user", "content": "Rain?"}],
        "responses": [{"content": "No.", "rating": 1.0, "preference": None}], "meta": "{}",
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), target)
    (example,) = datasets.read_examples(files, "data_1")
    assert (example.prompt[0].fields, example.responses[0].fields, example.tools) == ({}, {}, [])
