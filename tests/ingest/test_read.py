"""Bad files: each is refused with a sentence, or loses single rows with reason and line number. Nothing half-made stays."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.domain.errors import DatasetInvalid, MappingNeeded, StudioError, TooLarge
from app.ingest.limits import MIB, Limits

ROW = {"prompt": "Hi", "chosen": "Hellö", "rejected": "no"}
LINE = json.dumps(ROW, ensure_ascii=False).encode()
CSV = "prompt,chosen,rejected\nHi,Hellö,no\n".encode()


def parquet(tmp_path: Path, table: pa.Table, **options) -> bytes:
    path = tmp_path / "made.parquet"
    pq.write_table(table, path, **options)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (LINE, "jsonl"),
        (b"\n\n" + LINE + b"\n   \n" + b"\n", "jsonl"),
        (b"\xef\xbb\xbf" + LINE + b"\r\n", "jsonl"),
        (LINE.decode().encode("utf-16"), "jsonl"),
        (LINE.decode().encode("utf-32"), "jsonl"),
        (b"[" + LINE + b"]", "json"),
        (json.dumps([ROW], indent=4).encode(), "json"),
        (json.dumps(ROW, indent=2).encode(), "json"),
        (CSV, "csv"),
        (CSV.replace(b",", b";").replace(b"\n", b"\r\n"), "csv"),
        (CSV.replace(b",", b"\t").rstrip(b"\n"), "csv"),
        (CSV.decode().encode("utf-16"), "csv"),
        (b"\n" + CSV, "csv"),
        (b'prompt,chosen,rejected\nHi,"Hell\xc3\xb6",no\n', "csv"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["data.json", "data.parquet"])
def test_the_content_tells_the_format_whatever_the_name(read_bytes, content, form, packed, name):
    read = read_bytes(gzip.compress(content) if packed else content, name=name)
    assert read.pairs() == [("Hellö", "no")]
    assert read.audit.facts["format"] == (f"{form}.gz" if packed else form)
    assert read.audit.dropped == []


@pytest.mark.parametrize("packed", [False, True])
def test_parquet_is_read_also_packed(read_bytes, tmp_path, packed):
    content = parquet(tmp_path, pa.Table.from_pylist([ROW] * 300), row_group_size=100)
    read = read_bytes(gzip.compress(content) if packed else content)
    assert read.audit.num_kept_rows == 300
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_nested_parquet_is_read(read_bytes, tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a"}]
    rows = [{"chosen": turns, "rejected": [turns[0], {**turns[1], "content": "b"}]}]
    assert read_bytes(parquet(tmp_path, pa.Table.from_pylist(rows))).pairs() == [("a", "b")]


REFUSED = {
    "empty": (b"", "is empty"),
    "white space": (b" \n\n\t\n", "nothing but white space"),
    "empty list": (b"[]", "no rows"),
    "prose": (b"Dear Sir or Madam", 'starts with "Dear Sir or Madam"'),
    "rar": (b"Rar!\x1a\x07\x00", "a RAR archive"),
    "old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Office"),
    "pickle": (b"\x80\x05\x95", "a Python pickle"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "web page": (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
    "zip": (b"PK\x03\x04rest", "zip archive"),
    "pdf": (b"%PDF-1.7", "a PDF"),
    "utf-16 without a mark": (LINE.decode().encode("utf-16-le"), "without a byte-order mark"),
    "broken utf-16": (b"\xff\xfe{\x00\x00\xd8", "says UTF-16"),
    "truncated gzip": (gzip.compress(LINE * 50)[:-20], "cut off"),
    "gzip with junk": (gzip.compress(LINE) + b"junk and more", "followed or interrupted"),
    "double gzip": (gzip.compress(gzip.compress(LINE)), "twice"),
    "damaged gzip": (gzip.compress(LINE)[:12] + b"\xff\xff\xff\xff" + gzip.compress(LINE)[16:], "damaged|interrupted|cut off"),
    "list cut off": (b"[" + LINE + b",\n" + LINE[:30], r"Line 2: row 2 is not valid JSON"),
    "list with a broken row": (b"[" + LINE + b",\n{'a': 1}]", r"row 2 is not valid JSON \(.*line 2\)"),
    "list without comma": (b"[" + LINE + b"\n" + LINE + b"]", r"Line 2: after row 1 comes"),
    "list not closed": (b"[" + LINE, "the end of the file"),
    "text after the list": (b"[" + LINE + b"]\n[]", "Line 2: more text"),
    "deep list": (b"[" * 100_000, "nested too deeply"),
    "numbers only": (b"[1, 2, 3]", r"3 × not an object with named columns \(first in row 1\)"),
    "lists on lines": (b'{"a": 1\n["x"]\n', "not valid JSON"),
    "open quote": (b'a,b\n1,2\n"x,3\n4,5\n', "Line 3: a quoted field opens here"),
    "repeated column": (b"a,b,a\n1,2,3\n", 'names the column "a" twice'),
    "million columns": (b",".join(b"c%d" % n for n in range(10**6)) + b"\n" + b"1," * 10**6, "Line 1 is longer than 4 MiB"),
    "hundred thousand columns": (b",".join(b"c%d" % n for n in range(10**5)) + b"\n", "at most 2,000"),
    "header with NUL": (b"a\0,b\n" + b"1,2\n" * 9, "Line 1: a column's name"),
    "NUL after a row": (b"[" + LINE + b"\0]", 'comes "\\\\u0000"'),
    "only a header": (b"prompt,chosen,rejected\n", "no rows"),
    "broken parquet": (b"PAR1" + b"x" * 100 + b"PAR1", "Parquet file is damaged"),
    "half a parquet": (b"PAR1" + b"x" * 100, "Parquet file is damaged"),
    "encrypted parquet": (b"PARE" + b"x" * 100, "encrypted"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_hopeless_file_is_refused_in_a_sentence(read_bytes, tmp_path, case):
    content, sentence = REFUSED[case]
    with pytest.raises(DatasetInvalid, match=sentence) as caught:
        read_bytes(content)
    assert caught.value.detail.endswith((".", '"'))
    assert [path.name for path in tmp_path.iterdir()] in (["source"], ["source", "preview.json"], ["preview.json", "source"])


BAD_ROWS = {
    "invalid UTF-8": (b'{"prompt": "\xff", "chosen": "a", "rejected": "b"}', "not valid UTF-8"),
    "NaN": (b'{"prompt": "p", "chosen": "a", "rejected": "b", "x": NaN}', "contains NaN or Infinity, which JSON does not have"),
    "infinity": (b'{"prompt": "p", "chosen": "a", "rejected": "b", "x": 1e999}', "contains a number that is too large"),
    "5000 digits": (
        b'{"prompt": "p", "chosen": "a", "rejected": "b", "x": ' + b"7" * 5000 + b"}",
        "contains a number that is too large",
    ),
    "duplicate keys": (b'{"prompt": "p", "prompt": "q", "chosen": "a", "rejected": "b"}', "has the same key twice"),
    "lone surrogate": (b'{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}', "not valid Unicode (half a surrogate pair)"),
    "escaped NUL": (b'{"prompt": "\\u0000", "chosen": "a", "rejected": "b"}', "contains a NUL character"),
    "raw NUL": (b'{"prompt": "\x00", "chosen": "a", "rejected": "b"}', "not valid JSON"),
    "too deep": (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "10 MB": (b'{"prompt": "' + b"x" * 10 * MIB + b'", "chosen": "a", "rejected": "b"}', "longer than the limit for one row"),
    "many columns": (json.dumps({str(n): n for n in range(3000)}).encode(), "too many columns"),
    "a list": (b'["a", "b"]', "not an object with named columns"),
    "cut off": (b'{"prompt": "p", "chosen"', "not valid JSON"),
    "missing": (b'{"prompt": "p", "chosen": "a"}', "missing response"),
    "null": (b'{"prompt": "p", "chosen": "a", "rejected": null}', "missing response"),
    "number": (b'{"prompt": "p", "chosen": "a", "rejected": 5}', "a text is not text"),
    "empty": (b'{"prompt": "p", "chosen": "a", "rejected": " "}', "empty response"),
    "no prompt": (b'{"chosen": "a", "rejected": "b"}', "no prompt"),
    "blank prompt": (b'{"prompt": "", "chosen": "a", "rejected": "b"}', "empty prompt"),
    "identical": (b'{"prompt": "p", "chosen": "a", "rejected": "a "}', "identical responses"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_line_is_dropped_with_reason_and_line(read_bytes, case):
    content, reason = BAD_ROWS[case]
    read = read_bytes(LINE + b"\n\n" + content + b"\n" + LINE)
    assert read.dropped == {reason: [3]}
    assert (read.audit.num_rows, read.audit.num_kept_rows) == (3, 2)
    assert [example["line"] for example in read.examples] == [1, 4]


@pytest.mark.parametrize(
    "case", ["NaN", "infinity", "5000 digits", "duplicate keys", "lone surrogate", "a list", "invalid UTF-8"]
)
def test_a_bad_element_of_a_list_is_dropped_with_its_number(read_bytes, case):
    content, reason = BAD_ROWS[case]
    read = read_bytes(b"[" + b",\n\n".join([LINE, content, LINE]) + b"]")
    assert read.dropped == {reason: [2]}


def test_bad_csv_records_are_dropped_with_the_line_they_start_on(read_bytes):
    body = b'"two\nlines",a,b\nshort,a\n"x"y,a,b\n\xff,a,b\nx\x00y,a,b\nHi,a,b\n'
    read = read_bytes(b"prompt,chosen,rejected\n" + body)
    assert read.dropped == {
        "has more or fewer fields than the header": [4],
        "not valid CSV": [5],
        "not valid UTF-8": [6],
        "contains a NUL character": [7],
    }
    assert [example["line"] for example in read.examples] == [2, 8]
    assert read.prompts()[0] == [("user", "two\nlines")]


def test_a_csv_field_may_be_longer_than_131072_characters(read_bytes):
    read = read_bytes(b"prompt,chosen,rejected\nHi," + b"x" * 200_000 + b",no\n")
    assert len(read.pairs()[0][0]) == 200_000


def test_gzip_members_one_after_another_are_one_file(read_bytes):
    assert read_bytes(gzip.compress(LINE + b"\n") + gzip.compress(LINE)).audit.num_rows == 2


def test_rows_of_a_list_that_span_chunks_are_whole(read_bytes):
    rows = [{**ROW, "prompt": f"{n} " + "é" * (n * 90_000)} for n in range(12)]
    read = read_bytes(json.dumps(rows, indent=1, ensure_ascii=False).encode())
    assert [len(prompt[0][1]) for prompt in read.prompts()] == [len(row["prompt"]) for row in rows]


def test_a_gzip_bomb_is_refused(read_bytes):
    with pytest.raises(DatasetInvalid, match="decompression bomb"):
        read_bytes(gzip.compress(LINE + b"\n" + b" " * 50 * MIB, 1))


def test_a_parquet_bomb_is_refused(read_bytes, tmp_path):
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array(["x" * 10_000]))
    content = parquet(tmp_path, pa.table({"prompt": texts, "chosen": texts, "rejected": texts}))
    assert len(content) < MIB
    with pytest.raises(DatasetInvalid, match="decompression bomb"):
        read_bytes(content)


def test_the_cap_on_unpacked_bytes_holds(read_bytes):
    with pytest.raises(TooLarge, match="larger than the limit"):
        read_bytes((LINE + b"\n") * 1000, limits=Limits(max_unpacked_bytes=10_000))


def test_parquet_without_row_groups_has_no_rows(read_bytes, tmp_path):
    schema = pa.schema([("prompt", pa.string()), ("chosen", pa.string()), ("rejected", pa.string())])
    with pytest.raises(DatasetInvalid, match="no rows"):
        read_bytes(parquet(tmp_path, schema.empty_table()))


def test_other_parquet_types_are_no_text(read_bytes, tmp_path):
    rows = [ROW, {**ROW, "chosen": None}]
    table = pa.Table.from_pylist(rows).append_column("raw", pa.array([b"\xff", None]))
    read = read_bytes(parquet(tmp_path, table.append_column("at", pa.array([1, 2], pa.timestamp("ns")))))
    assert read.dropped == {"missing response": [2]}


def test_a_file_without_a_usable_row_tells_every_reason(read_bytes):
    with pytest.raises(StudioError) as caught:
        read_bytes(b'{"prompt": "p", "chosen": "a", "rejected": ""}\n{"prompt": "p", "chosen": "a", "rejected": "a"}\n')
    assert caught.value.problems == [
        {"field": "file", "message": "Empty response (first in line 1): give it a text, or leave the row out.", "line": 1},
        {
            "field": "file",
            "message": "Identical responses (first in line 2): give two responses that differ, or leave the row out.",
            "line": 2,
        },
    ]


def test_message_lists_in_csv_cells_are_read(read_bytes):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a"}]
    cells = [json.dumps(side).replace('"', '""') for side in (turns, [turns[0], {**turns[1], "content": "b"}])]
    read = read_bytes(f'chosen,rejected\n"{cells[0]}","{cells[1]}"\n'.encode())
    assert (read.shape, read.pairs()) == ("conversation_pair", [("a", "b")])


SIDES = [[{"role": "user", "content": "It's 1"}, {"role": "assistant", "content": answer}] for answer in ('a "b"', "c\n")]


@pytest.mark.parametrize("write", [
    json.dumps, repr, lambda side: json.dumps(side, indent=1), lambda side: " " + json.dumps(side, separators=(",", ":")),
    lambda side: f"array({side!r}, dtype=object)"[6:-15],
])  # fmt: skip
def test_message_lists_written_as_text_are_messages_however_they_are_spaced(read_rows, write):
    read = read_rows({"chosen": write(SIDES[0]), "rejected": write(SIDES[1])})
    assert (read.shape, read.pairs()) == ("conversation_pair", [('a "b"', "c\n")])
    assert read.prompts() == [[("user", "It's 1")]]


def keyed(side, **more):
    """Return messages as other programs write them, with further keys first."""
    return [{**more, "from": "human" if turn["role"] == "user" else "gpt", "value": turn["content"]} for turn in side]


@pytest.mark.parametrize("write", [
    lambda side: json.dumps([{"id": 3, **turn} for turn in side]),
    lambda side: repr([{"name": None, "weight": 1, **turn} for turn in side]),
    lambda side: json.dumps(keyed(side, id=1)),
    lambda side: json.dumps({"messages": side}),
    lambda side: repr({"id": 1, "conversations": keyed(side)}),
])  # fmt: skip
def test_message_lists_written_as_text_are_messages_whichever_key_stands_first(read_rows, write):
    read = read_rows({"chosen": write(SIDES[0]), "rejected": write(SIDES[1])})
    assert (read.shape, read.pairs()) == ("conversation_pair", [('a "b"', "c\n")])
    assert read.prompts() == [[("user", "It's 1")]]


@pytest.mark.parametrize(("prompt", "reason"), [
    ('{"id": 1, "from": "human", "value": "Hi"}', None),
    ('{"id": 1, "from": "human", "value": "Hi"', "messages written as text that is neither JSON nor a Python list"),
    ('[{"id": 1, "role": "user", "content": "Hi"}', "messages written as text that is neither JSON nor a Python list"),
    ('[{"id": 1, "role": "user", "content": "Hi"}, {"id": 2}]', "messages can't be read"),
])  # fmt: skip
def test_a_written_message_is_read_or_refused_by_name(read_rows, prompt, reason):
    read = read_rows({"prompt": "Hi", "chosen": "a", "rejected": "b"}, {"prompt": prompt, "chosen": "a", "rejected": "b"})
    assert read.prompts() == [[("user", "Hi")]] * (1 if reason else 2)
    assert read.dropped == ({reason: [2]} if reason else {})


def test_message_lists_that_are_neither_json_nor_python_are_not_taken_for_text(read_rows):
    broken = "[{'role': 'user', 'content': 'Hi'}\n {'role': 'assistant', 'content': ...]"
    with pytest.raises(MappingNeeded) as caught:
        read_rows({"prompt": "Hi", "chosen": broken, "rejected": broken})
    assert caught.value.extra["columns"][1]["type"] == "message list written as text"
    good = {
        "prompt": "Hi",
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
    read = read_rows(good, {**good, "chosen": broken})
    assert read.dropped == {"messages written as text that is neither JSON nor a Python list": [2]}


@pytest.mark.parametrize("write", [
    lambda turns: "[" + "\n ".join(map(repr, turns)) + "]",
    lambda turns: "array([" + ",\n       ".join(map(repr, turns)) + "], dtype=object)",
    lambda turns: json.dumps(json.dumps(turns)),
    lambda turns: json.dumps(json.dumps(turns, indent=1)),
], ids=["numpy printed", "numpy's repr", "json of json", "spaced json of json"])  # fmt: skip
def test_messages_printed_by_numpy_or_written_twice_are_read(read_rows, write):
    """What pandas makes of a list in a CSV cell; braces and quotes within the texts stay."""
    asked, said = "{'a': 1}\n {'b': 2}", 'It\'s "a", dtype=object) array('
    sides = [[{"role": "user", "content": asked}, {"role": "assistant", "content": text}] for text in (said, "no")]
    read = read_rows(*[dict(zip(("chosen", "rejected"), map(write, sides), strict=True))] * 2)
    assert read.shape == "conversation_pair"
    assert read.prompts() == [[("user", asked)]] * 2
    assert read.pairs() == [(said, "no")] * 2


@pytest.mark.parametrize(
    "answer", ['{"role": "admin", "content": "x"}', '[{"value": 1}', '[{"text": "a"}]', "[1, 2]", "{'a': 1}",
               '[{"id": 1, "role": "admin"}]', '{"id": 1, "from": "Ulm", "to": "Bonn"}', '{"messages": [], "role": "x"}']
)  # fmt: skip
def test_answers_in_json_are_texts(read_rows, answer):
    assert read_rows({"prompt": "Hi", "chosen": answer, "rejected": "b"}).pairs() == [(answer, "b")]


def test_rows_are_numbered_by_the_files_lines_or_as_rows(read_bytes, tmp_path):
    broken = {**ROW, "rejected": ""}
    json_lines = b"\n".join(json.dumps(row).encode() for row in (ROW, broken))
    assert read_bytes(b"\n\n" + json_lines).audit.numbering == "line"
    assert read_bytes(b"\n\n" + json_lines).dropped == {"empty response": [4]}
    assert read_bytes(b"prompt,chosen,rejected\np,a,b\n").audit.numbering == "line"
    for rows in (json.dumps([ROW, broken], indent=1).encode(), parquet(tmp_path, pa.Table.from_pylist([ROW, broken]))):
        read = read_bytes(rows)
        assert (read.audit.numbering, read.dropped) == ("row", {"empty response": [2]})
        assert [example["line"] for example in read.examples] == [1]
