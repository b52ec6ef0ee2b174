"""Real third-party files: counts as their source list states them, in = kept + dropped by reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.domain.dataset import ColumnMapping, Shape
from app.domain.errors import DatasetInvalid, MappingNeeded
from app.ingest.ingest import Ingested, ingest

pytestmark = pytest.mark.shared

HELPSTEER = {
    "shape": "rated",
    "columns": {"prompt": "prompt", "response": "response", "rating": "helpfulness"},
    "options": {"group_by_prompt": True},
}

DIFFER = "answers differ before the last one, which alone is learned"

# file: shape, rows, examples, responses, pairs, dropped by reason
EXPECTED: dict[str, tuple[Shape, int, int, int, int, dict[str, int]]] = {
    "hh/harmless-base.jsonl.gz": (
        Shape.TRANSCRIPT_PAIR, 1975, 1967, 3934, 1967, {DIFFER: 5, "empty response": 3},
    ),
    "hh/helpful-base.jsonl": (
        Shape.TRANSCRIPT_PAIR, 2035, 2022, 4044, 2022, {DIFFER: 9, "empty response": 4},
    ),
    "hh_reward_scored/helpful_base.first500.json": (Shape.CANDIDATES, 500, 499, 998, 499, {"empty response": 1}),
    "hh_reward_scored/harmless_base.first500.json": (Shape.CANDIDATES, 500, 500, 1000, 500, {}),
    "ultrafeedback/train_clean.first700.jsonl": (
        Shape.PAIR, 700, 697, 1394, 697, {"identical responses": 2, "empty response": 1},
    ),
    "llamafactory/dpo_en_demo.json": (Shape.SHAREGPT_PAIR, 300, 300, 600, 300, {}),
    "llamafactory/kto_en_demo.json": (Shape.RATED, 300, 300, 300, 0, {}),
    "rasbt/instruction-data-with-preference.json": (Shape.ALPACA_PAIR, 1100, 1094, 2188, 1094, {"identical responses": 6}),
    "pandalm/testset-v1.json": (
        Shape.TWO_RESPONSES, 999, 939, 1878, 836, {"empty response": 54, "a text is not text": 6},
    ),
    "llmbar/Natural.json": (Shape.TWO_RESPONSES, 96, 96, 192, 96, {}),
    "stackexchange/stack_exchange_paired_tiny.json": (Shape.PAIR, 25, 25, 50, 25, {}),
    "helpsteer2/helpsteer_train.100.jsonl": (Shape.RATED, 100, 50, 100, 29, {}),
    "oasst/en_100_tree.jsonl": (Shape.REPLY_TREE, 100, 212, 641, 212, {}),
    "medicalgpt/dpo_zh.first120.jsonl": (Shape.SHAREGPT_PAIR, 120, 120, 240, 120, {}),
}  # fmt: skip


def read(shared: Path, tmp_path: Path, name: str, mapping: dict[str, Any] | None = None) -> Ingested:
    model = ColumnMapping.model_validate(mapping) if mapping else None
    return ingest(shared / "data" / name, tmp_path / "examples.parquet", model)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_real_file_is_read_with_every_row_accounted_for(shared, tmp_path, name):
    done = read(shared, tmp_path, name, HELPSTEER if name.startswith("helpsteer2") else None)
    audit = done.audit
    dropped = {item.reason: item.count for item in audit.dropped}
    seen = (done.mapping.shape, audit.num_rows, audit.num_examples, audit.num_responses, audit.num_pairs, dropped)
    assert seen == EXPECTED[name]
    assert audit.num_rows == audit.num_kept_rows + sum(dropped.values())
    assert audit.has_rating or audit.has_preference
    assert all(len(item.lines) == min(item.count, 20) for item in audit.dropped)


def test_dropped_lines_of_a_real_file_are_the_ones_it_holds(shared, tmp_path):
    name = "ultrafeedback/train_clean.first700.jsonl"
    rows = [json.loads(line) for line in (shared / "data" / name).read_bytes().split(b"\n") if line]
    same = [n for n, row in enumerate(rows, 1) if row["chosen"].strip() == row["rejected"].strip()]
    blank = [n for n, row in enumerate(rows, 1) if not row["chosen"].strip() or not row["rejected"].strip()]
    audit = read(shared, tmp_path, name).audit
    assert {item.reason: item.lines for item in audit.dropped} == {"identical responses": same, "empty response": blank}
    assert audit.has_rating


def test_rewards_that_contradict_people_are_counted(shared, tmp_path):
    for name, times in (("helpful", 175), ("harmless", 195)):
        audit = read(shared, tmp_path, f"hh_reward_scored/{name}_base.first500.json").audit
        assert audit.facts["notes"]["best rating is not the chosen one"] == times


def test_repeated_prompts_are_counted_as_the_source_list_counts_them(shared, tmp_path):
    audit = read(shared, tmp_path, "llamafactory/dpo_en_demo.json").audit
    assert (audit.facts["num_repeated_prompts"], audit.facts["num_duplicate_examples"]) == (5, 5)


def test_several_ratings_need_a_mapping(shared, tmp_path):
    with pytest.raises(MappingNeeded, match="helpfulness, correctness"):
        read(shared, tmp_path, "helpsteer2/helpsteer_train.100.jsonl")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("llamafactory/alpaca_en_demo.first150.json", "without any preference"),
        ("prompts/mt_bench_question.jsonl", "prompts without responses"),
        ("prompts/vicuna_bench_question.jsonl", "prompts without responses"),
    ],
)
def test_real_files_without_preferences_are_refused(shared, tmp_path, name, sentence):
    with pytest.raises(DatasetInvalid, match=sentence):
        read(shared, tmp_path, name)
    assert list(tmp_path.glob("*.parquet")) == []
