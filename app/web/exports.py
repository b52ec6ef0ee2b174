"""Examples on their way out: JSON lines with the texts unchanged, CSV with cells that no spreadsheet runs."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from app.domain.dataset import CHOSEN, NEITHER, REJECTED, Example
from app.store.datasets import read_examples
from app.store.files.files import Files

BATCH = 1024  # rows of a row group of the internal form
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # the wide ones are narrowed by some
PREFERENCES = {CHOSEN: "chosen", NEITHER: "neither", REJECTED: "rejected"}
COLUMNS = ("example_id", "line", "prompt", "response", "preference", "rating", "fields")


def batches(files: Files, dataset_id: str) -> Iterator[list[Example]]:
    after = -1
    while examples := read_examples(files, dataset_id, after=after, limit=BATCH):
        yield examples
        after = examples[-1].example_id


def as_json_lines(files: Files, dataset_id: str) -> Iterator[str]:
    for examples in batches(files, dataset_id):
        yield "".join(f"{example.model_dump_json()}\n" for example in examples)


def as_csv(files: Files, dataset_id: str) -> Iterator[str]:
    yield to_csv([COLUMNS])
    for examples in batches(files, dataset_id):
        yield to_csv([row for example in examples for row in to_rows(example)])


def to_rows(example: Example) -> Iterator[tuple[str, ...]]:
    """One row per response; the prompt's messages joined under their roles; what else they carry as JSON, of the response in a
    column of its own.
    """
    prompt = "\n\n".join(f"{message.role}: {message.content}{to_json(message.fields)}" for message in example.prompt)
    for response in example.responses:
        preference = "" if response.preference is None else PREFERENCES[response.preference]
        rating = "" if response.rating is None else str(response.rating)
        yield (
            str(example.example_id),
            str(example.line),
            defuse(prompt),
            defuse(response.content),
            preference,
            rating,
            to_json(response.fields),
        )


def to_json(fields: dict[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False) if fields else ""


def to_csv(rows: list[tuple[str, ...]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()


def defuse(text: str) -> str:
    """Text that a spreadsheet takes for text."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
