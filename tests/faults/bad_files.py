"""Files that are wrong in one way each, with the answer that a user must get.

A case is either refused (`sentence`: what the refusal must say), read with rows left out (`dropped`: lines by reason), or read
whole (`dropped` empty). Text faults come as JSON lines, as a JSON list and as CSV where they make sense, and packed with gzip.
"""

import base64
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

MIB = 2**20
ROW = {"prompt": "Hi", "chosen": "Hellö", "rejected": "no"}
LINE = json.dumps(ROW, ensure_ascii=False).encode()
HEADER = b"prompt,chosen,rejected\n"
RECORD = "Hi,Hellö,no\n".encode()
CSV = HEADER + RECORD
LIST = b"[" + LINE + b",\n" + LINE + b"]"


@dataclass(frozen=True)
class Case:
    """`content` under `filename`; refused when there is a `sentence` (a pattern), otherwise ready with these `dropped` rows."""

    name: str
    content: bytes
    filename: str
    sentence: str = ""
    dropped: dict[str, list[int]] = field(default_factory=dict)
    num_examples: int | None = None


TEXT_FORMS = {"jsonl": LINE + b"\n" + LINE + b"\n", "json": LIST, "csv": CSV + RECORD}


def cases() -> list[Case]:
    """All of them, each name once."""
    found = [
        *whole_files(),
        *packed(encodings()),
        *packed(bad_rows()),
        *bad_lists(),
        *bad_csv(),
        *parquets(),
        *gzips(),
        *misnamed(),
    ]
    assert len({case.name for case in found}) == len(found)
    return found


def packed(plain: Iterator[Case]) -> Iterator[Case]:
    """Each case as it is, and packed with gzip."""
    for case in plain:
        yield case
        yield Case(
            f"{case.name}, packed", gzip.compress(case.content, 1), f"{case.filename}.gz", case.sentence, case.dropped,
            case.num_examples,
        )  # fmt: skip


def whole_files() -> Iterator[Case]:
    """Nothing, or nothing that is data."""
    for form in TEXT_FORMS:
        yield Case(f"empty {form}", b"", f"data.{form}", "The file is empty")
        yield Case(f"blank lines only, {form}", b"\n \n\t\r\n\n", f"data.{form}", "nothing but white space")
    yield Case("empty, packed", gzip.compress(b""), "data.jsonl.gz", "The file is empty")
    yield Case("blank lines only, packed", gzip.compress(b"\n\n"), "data.jsonl.gz", "nothing but white space")
    yield Case("an empty list", b"[]", "data.json", "holds no rows")
    yield Case("only a header", HEADER, "data.csv", "holds no rows")
    yield Case("prose", b"Dear Sir or Madam", "data.jsonl", 'starts with "Dear Sir or Madam"')
    yield Case("a top-level array of numbers", b"[1, 2, 3]", "data.json", r"not an object with named columns \(first in row 1\)")
    yield Case("a top-level array of arrays", b"[[], []]", "data.json", r"not an object with named columns \(first in row 1\)")
    yield Case("arrays on lines", b'["a", "b"]\n["c", "d"]\n', "data.jsonl", "Line 2: more text .* follows the end of the list")
    yield Case("depth 10^5, list", b"[" * 10**5, "data.json", "nested too deeply")
    yield Case("depth 10^5, objects", b'{"a":' * 10**5, "data.jsonl", r"nested too deeply \(first in line 1\)")


def encodings() -> Iterator[Case]:
    """Texts that are all there, written in unusual ways; two that are not what their start says."""
    for form, text in TEXT_FORMS.items():
        name = f"data.{form}"
        yield Case(f"byte-order mark, {form}", b"\xef\xbb\xbf" + text, name, num_examples=2)
        for encoding in ("utf-16", "utf-16-be", "utf-32"):
            mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
            yield Case(f"{encoding}, {form}", mark + text.decode().encode(encoding), name, num_examples=2)
        yield Case(f"utf-16 without a mark, {form}", text.decode().encode("utf-16-le"), name, "without a byte-order mark")
        yield Case(f"utf-16 that stops being it, {form}", text.decode().encode("utf-16") + b"\x00\xd8", name, "says UTF-16")
        yield Case(f"CRLF, {form}", text.replace(b"\n", b"\r\n"), name, num_examples=2)
        yield Case(f"no last newline, {form}", text.rstrip(b"\n"), name, num_examples=2)
        blank = b"   \n" if form != "csv" else b""  # there a line of blanks is a field
        spaced = b"\n\n" + text.replace(b"\n", b"\n\n") + b"\n" + blank
        yield Case(f"blank lines between, {form}", spaced, name, num_examples=2)


def with_fields(**fields: Any) -> bytes:
    return json.dumps({**ROW, **fields}, ensure_ascii=False).encode()


WITHOUT = {key: json.dumps({k: v for k, v in ROW.items() if k != key}).encode() for key in ROW}
ROWS: dict[str, tuple[bytes, str]] = {  # a row's JSON, and why it is left out
    "invalid UTF-8": (LINE.replace("ö".encode(), b"\xff"), "not valid UTF-8"),
    "NaN": (LINE[:-1] + b', "x": NaN}', "contains NaN or Infinity, which JSON does not have"),
    "Infinity": (LINE[:-1] + b', "x": -Infinity}', "contains NaN or Infinity, which JSON does not have"),
    "1e999": (LINE[:-1] + b', "x": 1e999}', "contains a number that is too large"),
    "a 5000-digit integer": (LINE[:-1] + b', "x": ' + b"7" * 5000 + b"}", "contains a number that is too large"),
    "duplicate keys": (LINE[:-1] + b', "prompt": "q"}', "has the same key twice"),
    "duplicate keys inside": (LINE[:-1] + b', "x": {"a": 1, "a": 2}}', "has the same key twice"),
    "a lone surrogate": (LINE.replace("ö".encode(), b"\\ud800"), "not valid Unicode (half a surrogate pair)"),
    "an escaped NUL": (LINE.replace("ö".encode(), b"\\u0000"), "contains a NUL character"),
    "a 10 MB line": (with_fields(chosen="x" * 10 * MIB), "longer than the limit for one row"),
    "3000 columns": (with_fields(**{str(n): n for n in range(3000)}), "too many columns"),
    "a number for a row": (b"5", "not an object with named columns"),
    "null for a row": (b"null", "not an object with named columns"),
    "a list for a row": (b'["a", "b"]', "not an object with named columns"),
    "no chosen": (WITHOUT["chosen"], "missing response"),
    "no rejected": (WITHOUT["rejected"], "missing response"),
    "no prompt": (WITHOUT["prompt"], "no prompt"),
    "null chosen": (with_fields(chosen=None), "missing response"),
    "null prompt": (with_fields(prompt=None), "no prompt"),
    "a number for a response": (with_fields(rejected=5), "a text is not text"),
    "a number for a prompt": (with_fields(prompt=5), "messages can't be read"),
    "an object for a response": (with_fields(chosen={"a": {}}), "messages can't be read"),
    "an empty response": (with_fields(rejected=""), "empty response"),
    "a blank response": (with_fields(chosen=" \n "), "empty response"),
    "an empty prompt": (with_fields(prompt=""), "empty prompt"),
    "chosen is rejected": (with_fields(rejected="Hellö"), "identical responses"),
}
ENDING = {  # in a list nothing marks where the next row starts, so that these end its reading
    "a 10 MB line": "row 2 is broken JSON or longer than 4 MiB",
}


def bad_rows() -> Iterator[Case]:
    """One bad row between good ones: the good ones are read, the bad one is told with its line."""
    for name, (row, reason) in ROWS.items():
        lines = b"\n".join([LINE, b"", row, LINE])
        yield Case(f"{name}, jsonl", lines, "data.jsonl", dropped={reason: [3]}, num_examples=2)
        if name not in ENDING:
            yield Case(
                f"{name}, json",
                b"[" + b",\n\n".join([LINE, row, LINE]) + b"]",
                "data.json",
                dropped={reason: [2]},
                num_examples=2,
            )
    yield Case(
        "a raw NUL, jsonl", LINE + b"\n" + LINE.replace("ö".encode(), b"\0"), "data.jsonl", dropped={"not valid JSON": [2]}
    )
    deep = b'{"prompt": ' + b"[" * 10**5 + b"]" * 10**5 + b"}"
    yield Case(
        "depth 10^5, jsonl", LINE + b"\n" + deep + b"\n" + LINE, "data.jsonl", dropped={"nested too deeply": [2]}, num_examples=2
    )
    yield Case("cut off, jsonl", LINE + b"\n" + LINE[:-9], "data.jsonl", dropped={"not valid JSON": [2]}, num_examples=1)
    yield Case("duplicate rows, jsonl", (LINE + b"\n") * 5, "data.jsonl", num_examples=5)
    yield Case("duplicate rows, csv", HEADER + RECORD * 5, "data.csv", num_examples=5)
    yield Case(
        "every row bad, jsonl",
        (WITHOUT["chosen"] + b"\n") * 3 + b"{\n",
        "data.jsonl",
        "don't tell for certain which one is the prompt",
    )
    yield Case(
        "one row, and that bad",
        WITHOUT["chosen"][:-1],
        "data.jsonl",
        "The one row read can't be used: not valid JSON .first in line 1",
    )


def bad_lists() -> Iterator[Case]:
    """JSON lists whose form is broken: told with row and line."""
    for name, sentence in ENDING.items():
        yield Case(f"{name}, json", b"[" + b",\n".join([LINE, ROWS[name][0], LINE]) + b"]", "data.json", sentence)
    deep = b"[" + LINE + b",\n" + b"[" * 10**5 + b"]" * 10**5 + b"]"
    yield Case("depth 10^5, json", deep, "data.json", r"Line 2 \(row 2\): the JSON is nested too deeply")
    yield Case("cut off, json", b"[" + LINE + b",\n" + LINE[:30], "data.json", "Line 2: row 2 is not valid JSON")
    yield Case("not closed, json", b"[" + LINE, "data.json", "after row 1 comes the end of the file")
    yield Case("no comma, json", b"[" + LINE + b"\n" + LINE + b"]", "data.json", "Line 2: after row 1 comes")
    yield Case("more after the list", LIST + b"\n[]", "data.json", "Line 3: more text .* follows the end of the list")
    yield Case("a raw NUL, json", b"[" + LINE + b"\0]", "data.json", r"after row 1 comes")


def bad_csv() -> Iterator[Case]:
    """What only CSV can get wrong."""
    body = b'"two\nlines",a,b\nshort,a\n"x"y,a,b\n\xff,a,b\nx\x00y,a,b\nHi,a,b\nHi,,b\nHi,a,a\n'
    dropped = {
        "has more or fewer fields than the header": [4], "not valid CSV": [5], "not valid UTF-8": [6],
        "contains a NUL character": [7], "empty response": [9], "identical responses": [10],
    }  # fmt: skip
    yield Case("bad records, csv", HEADER + body, "data.csv", dropped=dropped, num_examples=2)
    yield Case("a field over 131072 characters", HEADER + b"Hi," + b"x" * 200_000 + b",no\n", "data.csv", num_examples=1)
    yield Case("a 10 MB field", HEADER + RECORD + b"Hi," + b"x" * 10 * MIB + b",no\n", "data.csv", "Line 3 is longer than 4 MiB")
    yield Case(
        "a quote never closed", HEADER + RECORD + b'Hi,"open,no\n' + RECORD * 3, "data.csv", "Line 3: a quoted field opens here"
    )
    yield Case(
        "a 10 MB quoted field", HEADER + b'Hi,"' + b"x\n" * 5 * MIB + b'",no\n', "data.csv", "Line 2: a quoted field opens here"
    )
    wide = b",".join(b"c%d" % n for n in range(10**6))
    yield Case("10^6 columns", wide + b"\n" + b"1," * 10**6, "data.csv", "Line 1 is longer than 4 MiB")
    yield Case("10^6 nameless columns", b"," * 10**6 + b"\n" + b"," * 10**6, "data.csv", "1,000,001 columns; at most 2,000")
    yield Case("10^5 columns", b",".join(b"c%d" % n for n in range(10**5)) + b"\n", "data.csv", "100,000 columns; at most 2,000")
    yield Case("a column twice", b"prompt,chosen,rejected,chosen\n", "data.csv", 'the column "chosen" twice')
    yield Case("a header with NUL", b"prompt\0,chosen\n" + b"1,2\n" * 9, "data.csv", "Line 1: a column's name")


def write_parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


class KeptKeys(pe.KmsClient):
    """Wraps keys by naming them: enough to write a file that others can't read."""

    def __init__(self, _: pe.KmsConnectionConfig) -> None:
        pe.KmsClient.__init__(self)

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        return base64.b64encode(key_bytes).decode()


def encrypt(table: pa.Table, *, plaintext_footer: bool) -> bytes:
    configuration = pe.EncryptionConfiguration(
        footer_key="footer", column_keys={"columns": ["prompt", "chosen", "rejected"]}, plaintext_footer=plaintext_footer
    )
    properties = pe.CryptoFactory(KeptKeys).file_encryption_properties(pe.KmsConnectionConfig(), configuration)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquets() -> Iterator[Case]:
    """Parquet that is nested, empty, broken or encrypted."""
    table = pa.Table.from_pylist([ROW] * 10)
    good = write_parquet(table)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a"}]
    nested = pa.Table.from_pylist([{"chosen": turns, "rejected": [turns[0], {**turns[1], "content": "b"}]}] * 3)
    yield Case("nested parquet", write_parquet(nested), "data.parquet", num_examples=3)
    deep: Any = "x"
    for _ in range(90):
        deep = [deep]
    yield Case(
        "deep parquet",
        write_parquet(pa.table({**table.to_pydict(), "deep": [deep] * 10})),
        "data.parquet",
        "columns are nested too deeply",
    )
    rows = [ROW, {**ROW, "chosen": None}, {**ROW, "rejected": ""}]
    dropped = {"missing response": [2], "empty response": [3]}
    yield Case(
        "null and empty parquet", write_parquet(pa.Table.from_pylist(rows)), "data.parquet", dropped=dropped, num_examples=1
    )
    yield Case("zero row groups", write_parquet(table.slice(0, 0)), "data.parquet", "holds no rows")
    yield Case("footer broken", good[:-40] + b"\xff" * 32 + good[-8:], "data.parquet", "Parquet file is damaged")
    yield Case("footer missing", good[:-30], "data.parquet", "Parquet file is damaged")
    yield Case(
        "footer of 2 GB", good[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1", "data.parquet", "Parquet file is damaged"
    )
    yield Case(
        "pages overwritten", good[:4] + b"\xff" * 60 + good[64:], "data.parquet", "Near row 1: The Parquet file is damaged"
    )
    yield Case("only the magic", b"PAR1", "data.parquet", "Parquet file is damaged")
    yield Case("encrypted parquet", encrypt(table, plaintext_footer=False), "data.parquet", "encrypted Parquet file")
    yield Case("encrypted parquet with a readable footer", encrypt(table, plaintext_footer=True), "data.parquet", "is encrypted")
    yield Case(
        "two columns of one name",
        write_parquet(pa.table([["a"], ["b"]], names=["x", "x"])),
        "data.parquet",
        "two columns of the same name",
    )
    yield Case(
        "3000 columns, parquet",
        write_parquet(pa.table({f"c{n}": [1] for n in range(3000)})),
        "data.parquet",
        "more than 2,000 columns",
    )
    yield Case("parquet, packed", gzip.compress(good), "data.parquet.gz", num_examples=10)


def gzips() -> Iterator[Case]:
    """Packing that is unusual or broken."""
    text, lines = LINE + b"\n", (LINE + b"\n") * 50
    yield Case("gzip concatenated", gzip.compress(text) + gzip.compress(text), "data.jsonl.gz", num_examples=2)
    yield Case("gzip truncated", gzip.compress(lines)[:-20], "data.jsonl.gz", "cut off")
    yield Case("gzip without its end", gzip.compress(lines)[:-8], "data.jsonl.gz", "cut off")
    yield Case("gzip with trailing junk", gzip.compress(lines) + b"junk and more", "data.jsonl.gz", "followed or interrupted")
    yield Case("gzip with trailing zeros", gzip.compress(text) + b"\0" * 512, "data.jsonl.gz", num_examples=1)
    yield Case("gzip of gzip", gzip.compress(gzip.compress(lines)), "data.jsonl.gz", "packed with gzip twice")
    yield Case("gzip with a wrong checksum", gzip.compress(lines)[:-8] + bytes(8), "data.jsonl.gz", "damaged")
    yield Case(
        "gzip damaged inside", gzip.compress(lines)[:14] + b"\xff" * 9 + gzip.compress(lines)[23:], "data.jsonl.gz", "damaged"
    )
    yield Case("only the gzip magic", b"\x1f\x8b", "data.jsonl.gz", "cut off|damaged")


FOREIGN = {
    "zip": (b"PK\x03\x04" + b"x" * 60, "a zip archive"), "xz": (b"\xfd7zXZ\0" + b"x" * 60, "an xz archive"),
    "zst": (b"\x28\xb5\x2f\xfd" + b"x" * 60, "a Zstandard archive"), "bz2": (b"BZh91AY" + b"x" * 60, "a bzip2 archive"),
    "pdf": (b"%PDF-1.7", "a PDF"), "pkl": (b"\x80\x04\x95" + b"x" * 60, "a Python pickle"),
    "db": (b"SQLite format 3\0" + bytes(90), "an SQLite database"),
}  # fmt: skip


def misnamed() -> Iterator[Case]:
    """Contents under another format's name: the content tells, not the name."""
    contents = {**TEXT_FORMS, "parquet": write_parquet(pa.Table.from_pylist([ROW] * 2))}
    for form, content in contents.items():
        for other in (*contents, "jsonl.gz", "exe"):
            if other != form:
                yield Case(f"{form} named .{other}", content, f"data.{other}", num_examples=2)
    for form, content in TEXT_FORMS.items():
        yield Case(f"packed {form} named .{form}", gzip.compress(content), f"data.{form}", num_examples=2)
    for ending, (content, what) in FOREIGN.items():
        yield Case(f"{ending} named .jsonl", content, "data.jsonl", f"This is {what}")
