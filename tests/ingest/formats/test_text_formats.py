"""CSV in its dialects, and JSON whose rows stand one level down."""

import json

import pytest

from app.domain.errors import DatasetInvalid, MappingNeeded
from app.ingest import rows

ROWS = [["prompt", "chosen", "rejected"], ["p, 1", "a", "b"], ["p2", "c", "d"]]


def table(delimiter, end="\r\n", before=""):
    cells = [[f'"{cell}"' if delimiter in cell else cell for cell in row] for row in ROWS]
    return (before + end.join(delimiter.join(row) for row in cells) + end).encode()


@pytest.mark.parametrize("content", [
    table(","), table(";"), table("\t"), table("|"), table(",", "\r"), table("|", "\n"),
    table(";", before="sep=;\r\n"), table(";", before="\ufeffsep=;\r\n"),
    table("~", before='"sep=~"\n'), table("|", "\r", "sep=|\r"),
])  # fmt: skip
def test_every_dialect_gives_the_same_rows(read_bytes, content):
    read = read_bytes(content)
    assert read.prompts() == [[("user", "p, 1")], [("user", "p2")]]
    assert [row["line"] for row in read.examples] == ([3, 4] if b"sep=" in content else [2, 3])


def test_cells_that_read_nan_are_empty_and_noted(read_bytes):
    read = read_bytes(b",prompt,chosen,rejected\n0,a,good,nan\n1,NaN,good,bad\n2,c,<NA>,bad\n3,d,nano,banana\n")
    assert read.dropped == {"empty response": [2, 4], "empty prompt": [3]}
    assert [(note.note, note.lines) for note in read.audit.notes] == [
        ("cells that read nan, NaN or <NA>, taken as empty", [2, 3, 4])
    ]
    assert read.audit.unused == {"column_1": 1}


def test_one_column_is_refused_for_being_one(read_bytes):
    with pytest.raises(DatasetInvalid, match='one column only, "prompt": a prompt, its responses'):
        read_bytes(b"prompt\nWhy?\nHow?\n")


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(("content", "splits"), [
    ({"train": [PAIR, PAIR], "test": [PAIR]}, ["train", "train", "test"]),
    ({"version": "1.0", "info": {"a": [1]}, "data": [PAIR]}, ["data"]),
    ({"math": [PAIR], "tags": ["x"], "code": [PAIR], "more": []}, ["math", "code"]),
])  # fmt: skip
def test_rows_one_level_down_are_found_with_their_key_in_a_column(read_bytes, content, splits, indent):
    read = read_bytes(json.dumps(content, indent=indent).encode())
    assert [json.loads(row["meta"])["split"] for row in read.examples] == splits
    assert (read.audit.numbering, read.audit.facts["format"]) == ("row", "json")
    beside = [note.note.rpartition(" ")[2] for note in read.audit.notes if note.note.startswith("beside")]
    assert beside == [f'"{key}"' for key, value in content.items() if not isinstance(value, list) or value[:1] != [PAIR]]


def test_a_column_called_split_keeps_its_values(read_bytes):
    read = read_bytes(json.dumps({"train": [{**PAIR, "split": "mine"}]}).encode())
    assert json.loads(read.examples[0]["meta"]) == {"split": "mine", "list": "train"}


def test_rows_far_longer_than_the_first_look_are_found(read_bytes):
    rows = [{**PAIR, "prompt": f"{n} " + "x" * 200_000} for n in range(5)]
    assert read_bytes(json.dumps({"train": rows}).encode()).audit.num_examples == 5


@pytest.mark.parametrize("row", [
    {**PAIR, "train": [PAIR]},
    {"tools": [{"type": "function", "function": {"name": "x"}}], **PAIR},
    {"prompt": "p", "answers": [{"text": "a", "rank": 1}, {"text": "b", "rank": 2}]},
    {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}], "label": True},
])  # fmt: skip
def test_a_row_with_lists_is_a_row(read_bytes, row):
    assert read_bytes(json.dumps(row).encode()).audit.num_rows == 1


def test_lines_with_lists_are_lines(read_bytes):
    with pytest.raises(MappingNeeded):
        read_bytes(b'{"data": [{"prompt": "p"}]}\n{"data": [{"prompt": "p"}]}\n')


@pytest.mark.parametrize(("cut", "sentence"), [(-1, "the file ends before"), (-2, "the end of the file"), (20, "not valid JSON")])
def test_a_file_that_ends_inside_its_lists_is_refused(read_bytes, cut, sentence):
    with pytest.raises(DatasetInvalid, match=sentence):
        read_bytes(json.dumps({"train": [PAIR, PAIR]}).encode()[:cut])


@pytest.mark.parametrize("content", [
    {"prompt": {"0": "p", "1": "q"}, "chosen": {"0": "a", "1": "b"}, "rejected": {"0": "c", "1": "d"}},
    {"prompt": ["p", "q"], "chosen": ["a", "b"], "rejected": ["c", "d"]},
    {"columns": ["prompt", "chosen"], "index": [0], "data": [["p", "a"]]},
])  # fmt: skip
def test_a_table_by_columns_is_refused_with_the_way_to_write_rows(read_bytes, content):
    with pytest.raises(DatasetInvalid, match=r'column by column .* orient="records", lines=True') as caught:
        read_bytes(json.dumps(content).encode())
    assert not isinstance(caught.value, MappingNeeded)


LINES = b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n'
CELLS = b"prompt,chosen,rejected\np,a,b\n"


def test_every_reason_comes_with_what_to_do():
    reasons = {value for name, value in vars(rows).items() if name.isupper() and isinstance(value, str)} - {rows.OTHER_REASONS}
    assert {reason for reason in reasons if not rows.remedy_of(reason)} == set()


@pytest.mark.parametrize(("content", "reason", "remedy"), [
    (LINES + LINES.replace(b'"p"', b'"\xff"'), "not valid UTF-8", "UTF-8"),
    (LINES + LINES.replace(b"}", b",}"), "not valid JSON", "no comma after the last value"),
    (LINES + LINES.replace(b'"', b"'"), "not valid JSON", "double quotes"),
    (CELLS + b"p,a\n", "has more or fewer fields than the header", "double quotes"),
    (LINES + LINES.replace(b'"a"', b'" "'), "empty response", "leave the row out"),
    (LINES + LINES.replace(b'"a"', b'"b"'), "identical responses", "that differ"),
])  # fmt: skip
def test_rows_left_out_come_with_what_to_do(read_bytes, content, reason, remedy):
    (dropped,) = read_bytes(content).audit.dropped
    assert dropped.reason == reason
    assert remedy in dropped.remedy


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(("content", "meta"), [
    ({"0": PAIR, "1": PAIR}, [{}, {}]),
    ({"train": {"data": [PAIR]}, "test": {"data": [PAIR]}}, [{"split": "train"}, {"split": "test"}]),
    ({"version": 1, "train": {"0": PAIR, "7": PAIR}}, [{"split": "train"}] * 2),
    ({"data": {"name": "x", "rows": [PAIR, PAIR]}}, [{"split": "data"}] * 2),
])  # fmt: skip
def test_rows_under_their_numbers_or_two_levels_down_are_read(read_bytes, content, meta, indent):
    read = read_bytes(json.dumps(content, indent=indent).encode())
    assert [json.loads(row["meta"]) for row in read.examples] == meta
    assert [row["line"] for row in read.examples] == [1, 2]


def test_an_object_that_ends_within_a_split_is_refused(read_bytes):
    with pytest.raises(DatasetInvalid, match="the file ends before its object does"):
        read_bytes(json.dumps({"train": {"data": [PAIR]}}).encode()[:-2])
