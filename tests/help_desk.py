"""Rows of a help desk as the studio keeps them, and their file: for tests that need examples and no model."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SUBJECTS = ("the printer", "my account", "the red kettle", "this lamp", "a blue chair", "the map", "my order", "the garden hose")
PROBLEMS = ("is broken", "arrived late", "makes a noise", "does not start", "lost its colour", "costs too much")
KIND = ("I am sorry about that, let us fix it together", "Thank you for telling us, we will send a new one today")
RUDE = ("Not my problem", "Read the manual and leave me alone, please do not write again")


def make_rows(num: int = 24, *, seed: int = 0) -> list[dict[str, Any]]:
    """Examples of one prompt with a kind and a rude answer each, rated and preferred."""
    chance = random.Random(seed)
    rows = []
    for k in range(num):
        prompt = f"{chance.choice(SUBJECTS)} {chance.choice(PROBLEMS)} {'again ' * chance.randrange(4)}{k}"
        answers = [(chance.choice(KIND), 1, 1.0 + chance.random()), (chance.choice(RUDE), -1, chance.random())]
        responses = [{"content": c, "rating": r, "preference": p} for c, p, r in answers]
        rows.append({"example_id": k, "line": k + 1, "prompt": [{"role": "user", "content": prompt}], "responses": responses})
    return rows


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{**row, "meta": "{}"} for row in rows]), path)
