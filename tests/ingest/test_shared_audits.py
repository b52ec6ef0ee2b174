"""Every file of the shared cases and data with its audit: counts, what is left out, not used, noted and found; or its refusal."""

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from app.domain.dataset import ColumnMapping
from app.domain.errors import DatasetInvalid
from app.ingest import rows
from app.ingest.audit.profile import CALLS, CONTINUED, REASONING, TEMPLATED, TOOLS
from app.ingest.audit.repeats import DUPLICATE as REPEAT
from app.ingest.audit.repeats import NEAR_DUPLICATE as NEAR
from app.ingest.audit.repeats import RATINGS
from app.ingest.ingest import ingest

pytestmark = pytest.mark.shared


class Expected(NamedTuple):
    """An audit, as far as it is the file's own."""

    shape: str
    format: str
    num_rows: int
    num_examples: int
    num_pairs: int
    dropped: dict[str, int] = {}  # noqa: RUF012
    unused: dict[str, int] = {}  # noqa: RUF012
    notes: dict[str, int] = {}  # noqa: RUF012
    findings: list[str] = []  # noqa: RUF012


GIVEN = {
    "data/helpsteer2/helpsteer_train.100.jsonl": {
        "shape": "rated",
        "columns": {"prompt": "prompt", "response": "response", "rating": "helpfulness"},
        "options": {"group_by_prompt": True},
    }
}
EXPECTED = {
    "cases/already_templated.jsonl": Expected(
        "pair", "jsonl", 6, 6, 6,
        notes={TEMPLATED.format("ChatML"): 6},
        findings=["carried_template"],
    ),
    "cases/already_templated_inst.jsonl": Expected(
        "pair", "jsonl", 6, 6, 6,
        notes={TEMPLATED.format("Llama 2 or Mistral"): 6},
        findings=["carried_template"],
    ),
    "cases/answer_is_tool_call.jsonl": Expected(
        "conversation_pair", "jsonl", 6, 6, 6,
        notes={CALLS: 6},
    ),
    "cases/assistant_prefix.jsonl": Expected(
        "pair", "jsonl", 6, 6, 6,
        notes={CONTINUED: 6},
    ),
    "cases/cr_only.csv": Expected(
        "pair", "csv", 6, 6, 6,
    ),
    "cases/data-00000-of-00001.arrow": Expected(
        "pair", "arrow", 6, 6, 6,
    ),
    "cases/developer_role.jsonl": Expected(
        "conversation_pair", "jsonl", 6, 6, 6,
        notes={"developer messages, read as system messages": 6},
    ),
    "cases/edges.jsonl": Expected(
        "conversation_pair", "jsonl", 24, 24, 24,
    ),
    "cases/edges_system6.jsonl": Expected(
        "conversation_pair", "jsonl", 24, 24, 24,
    ),
    "cases/excel_sep_line.csv": Expected(
        "pair", "csv", 6, 6, 6,
    ),
    "cases/h4_json.csv": Expected(
        "conversation_pair", "csv", 6, 6, 6,
    ),
    "cases/h4_json_spaced.csv": Expected(
        "conversation_pair", "csv", 6, 6, 6,
    ),
    "cases/messages_as_text.jsonl": Expected(
        "conversation_pair", "jsonl", 6, 6, 6,
    ),
    "cases/object_of_splits.json": Expected(
        "pair", "json", 8, 8, 8,
        unused={"split": 8},
        notes={REPEAT: 2},
        findings=["repeated_examples"],
    ),
    "cases/pandas_nan.csv": Expected(
        "pair", "csv", 4, 1, 1,
        dropped={"empty response": 2, "empty prompt": 1},
        unused={"column_1": 1},
        notes={"cells that read nan, NaN or <NA>, taken as empty": 2},
    ),
    "cases/pipe.csv": Expected(
        "pair", "csv", 6, 6, 6,
    ),
    "cases/reasoning_field.jsonl": Expected(
        "conversation_pair", "jsonl", 6, 6, 6,
        notes={REASONING: 6},
    ),
    "cases/shards.tar.gz": Expected(
        "pair", "tar of 2 parquet", 6, 6, 6,
        unused={"file": 6},
    ),
    "cases/shards.zip": Expected(
        "pair", "zip of 2 parquet", 6, 6, 6,
        unused={"file": 6},
    ),
    "cases/sharegpt_function_call.jsonl": Expected(
        "sharegpt_pair", "jsonl", 6, 6, 6,
        notes={CALLS: 6},
    ),
    "cases/tool_calls_empty_content.jsonl": Expected(
        "conversation_pair", "jsonl", 6, 6, 6,
        notes={CALLS: 6, TOOLS: 6},
    ),
    "cases/two_assistant_messages.jsonl": Expected(
        "conversation_pair", "jsonl", 6, 6, 6,
        notes={CONTINUED: 6},
    ),
    "cases/wrapped_data.json": Expected(
        "pair", "json", 6, 6, 6,
        unused={"split": 6},
        notes={'beside the lists of rows, and not used: "version"': 1},
    ),
    "data/helpsteer2/helpsteer_train.100.jsonl": Expected(
        "rated", "jsonl", 100, 50, 29,
        unused={"correctness": 100, "coherence": 100, "complexity": 100, "verbosity": 100},
        notes={"tie": 21},
    ),
    "data/hh/harmless-base.jsonl.gz": Expected(
        "transcript_pair", "jsonl.gz", 1975, 1967, 1967,
        dropped={rows.ANSWERS_DIFFER: 5, "empty response": 3},
    ),
    "data/hh/helpful-base.jsonl": Expected(
        "transcript_pair", "jsonl", 2035, 2022, 2022,
        dropped={rows.ANSWERS_DIFFER: 9, "empty response": 4},
    ),
    "data/hh_reward_scored/harmless_base.first500.json": Expected(
        "candidates", "jsonl", 500, 500, 500,
        unused={"meta": 500},
        notes={RATINGS: 195},
        findings=["contradicting_ratings"],
    ),
    "data/hh_reward_scored/helpful_base.first500.json": Expected(
        "candidates", "jsonl", 500, 499, 499,
        dropped={"empty response": 1},
        unused={"meta": 499},
        notes={RATINGS: 175},
        findings=["contradicting_ratings"],
    ),
    "data/llamafactory/dpo_en_demo.json": Expected(
        "sharegpt_pair", "json", 300, 300, 300,
        notes={REPEAT: 5},
        findings=["repeated_examples"],
    ),
    "data/llamafactory/kto_en_demo.json": Expected(
        "rated", "json", 300, 300, 0,
        notes={TEMPLATED.format("Phi or Zephyr"): 1},
        findings=["carried_template"],
    ),
    "data/llmbar/Natural.json": Expected(
        "two_responses", "json", 96, 96, 96,
    ),
    "data/medicalgpt/dpo_zh.first120.jsonl": Expected(
        "sharegpt_pair", "jsonl", 120, 120, 120,
    ),
    "data/oasst/en_100_tree.jsonl": Expected(
        "reply_tree", "jsonl", 100, 212, 212,
        unused={
            "prompt[].message_id": 1067, "prompt[].parent_id": 1067, "prompt[].lang": 1067,
            "prompt[].review_count": 1067, "prompt[].review_result": 1067, "prompt[].synthetic": 1067,
            "prompt[].emojis": 763, "message_tree_id": 100, "tree_state": 100, "prompt.message_id": 100,
            "prompt.lang": 100, "prompt.review_count": 100, "prompt.review_result": 100, "prompt.synthetic":
            100, "prompt.emojis": 89, "prompt[].model_name": 17, "prompt.model_name": 5,
        },
        notes={"skipped message: fewer than two responses": 40, "skipped message: replies without ranks": 2},
    ),
    "data/pandalm/testset-v1.json": Expected(
        "two_responses", "json", 999, 939, 836,
        dropped={"empty response": 54, "a text is not text": 6},
        unused={"idx": 939, "motivation_app": 939, "cmp_key": 939},
        notes={"votes disagree": 113, "tie": 103, REPEAT: 102, NEAR: 35},
        findings=["repeated_examples"],
    ),
    "data/rasbt/instruction-data-with-preference.json": Expected(
        "alpaca_pair", "json", 1100, 1094, 1094,
        dropped={"identical responses": 6},
        unused={"output": 1094},
    ),
    "data/stackexchange/stack_exchange_paired_tiny.json": Expected(
        "pair", "json", 25, 25, 25,
        notes={NEAR: 1},
        findings=["repeated_examples"],
    ),
    "data/ultrafeedback/train_clean.first700.jsonl": Expected(
        "pair", "jsonl", 700, 697, 697,
        dropped={"identical responses": 2, "empty response": 1},
        unused={"source_index": 697},
        notes={"rating tie": 73},
    ),
}  # fmt: skip
MEDIA = "6 × holds images, video or audio, and this studio trains on text (first in line 1): leave these rows out"
REFUSED = {
    "cases/book.xlsx": "This is an Excel workbook. Save the sheet with the rows as CSV (UTF-8) and upload that.",
    "cases/image_parts.jsonl": MEDIA,
    "cases/image_tag.jsonl": MEDIA,
    "cases/pandas_columns.json": "a table column by column (prompt, chosen, rejected), not row by row. Write it row by row",
    "cases/trajectory_pairs.jsonl": "6 × answers differ before the last one, which alone is learned (first in line 1): switch "
    "first_difference on",
    "data/llamafactory/alpaca_en_demo.first150.json": "without any preference: VAR needs a second, rejected response per prompt",
    "data/prompts/mt_bench_question.jsonl": "prompts without responses (columns question_id, category, turns, reference)",
    "data/prompts/vicuna_bench_question.jsonl": "prompts without responses (columns question_id, category, turns)",
}


def read(shared: Path, tmp_path: Path, name: str, mapping: dict[str, Any] | None = None) -> tuple[Any, list[dict[str, Any]]]:
    model = ColumnMapping.model_validate(mapping) if mapping else None
    done = ingest(shared / name, tmp_path / "examples.parquet", model)
    return done, pq.read_table(tmp_path / "examples.parquet").to_pylist()


def test_the_table_holds_every_file(shared):
    there = {path for folder in ("cases", "data") for path in (shared / folder).rglob("*") if path.is_file()}
    names = {str(path.relative_to(shared)) for path in there if not path.name.startswith(("README", "template_"))}
    assert names == EXPECTED.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_has_its_audit(shared, tmp_path, name):
    done, examples = read(shared, tmp_path, name, GIVEN.get(name))
    audit, facts = done.audit, done.audit.facts
    assert EXPECTED[name] == Expected(
        str(done.mapping.shape), facts["format"], audit.num_rows, audit.num_examples, audit.num_pairs,
        {item.reason: item.count for item in audit.dropped}, audit.unused, {item.note: item.count for item in audit.notes},
        [item.name for item in audit.findings],
    )  # fmt: skip
    assert len(examples) == audit.num_examples


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_is_refused_in_a_sentence(shared, tmp_path, name):
    with pytest.raises(DatasetInvalid) as caught:
        read(shared, tmp_path, name)
    assert REFUSED[name] in caught.value.detail
    assert caught.value.detail.endswith(".")


PAIR = {"shape": "pair", "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}}
STRIPPED = {**PAIR, "options": {"strip_template": True}}
CUT = {
    "shape": "conversation_pair", "columns": {"chosen": "chosen", "rejected": "rejected"}, "options": {"first_difference": True},
}  # fmt: skip
FIRST: list[tuple[str, dict[str, Any] | None, list[tuple[str, str]], tuple[str, str]]] = [
    ("already_templated.jsonl", STRIPPED, [("user", "Q0")], ("yes 0", "no 0")),
    ("already_templated_inst.jsonl", STRIPPED, [("user", "Q0")], ("yes 0", "no 0")),
    ("trajectory_pairs.jsonl", CUT, [("user", "Q0")], ("good 1", "bad 1")),
    ("assistant_prefix.jsonl", None, [("user", "Write a poem 0"), ("assistant", "Roses are ")], ("red and fair.", "stone 0.")),
    ("two_assistant_messages.jsonl", None, [("user", "Write a poem 0"), ("assistant", "Roses are")], (" red", " blue 0")),
    ("developer_role.jsonl", None, [("system", "Be brief."), ("user", "Q0?")], ("Yes 0", "No 0")),
    ("sharegpt_function_call.jsonl", None, [("user", "Weather 0?"), ("assistant", ""), ("tool", "blue")], ("Blue 0", "Red 0")),
    ("messages_as_text.jsonl", None, [("user", "Q0")], ("good 0", "bad 0")),
    ("h4_json.csv", None, [("user", "Q0")], ("good 0", "bad 0")),
    ("h4_json_spaced.csv", None, [("user", "Q0")], ("good 0", "bad 0")),
    ("reasoning_field.jsonl", None, [("user", "Q0?")], ("Yes 0", "No 0")),
    ("shards.zip", None, [("user", "Question number 0?")], ("Good answer 0, é.", "Bad answer 0.")),
    ("data-00000-of-00001.arrow", None, [("user", "Question number 0?")], ("Good answer 0, é.", "Bad answer 0.")),
    ("object_of_splits.json", None, [("user", "Question number 0?")], ("Good answer 0, é.", "Bad answer 0.")),
    ("cr_only.csv", None, [("user", "Question number 0?")], ("Good answer 0, é.", "Bad answer 0.")),
    ("excel_sep_line.csv", None, [("user", "Question number 0?")], ("Good answer 0, é.", "Bad answer 0.")),
    ("pipe.csv", None, [("user", "Question number 0?")], ("Good answer 0, é.", "Bad answer 0.")),
]


@pytest.mark.parametrize(("name", "mapping", "prompt", "answers"), FIRST, ids=[name for name, *_ in FIRST])
def test_the_first_example_is_what_the_file_says(shared, tmp_path, name, mapping, prompt, answers):
    _, examples = read(shared, tmp_path, f"cases/{name}", mapping)
    assert [(turn["role"], turn["content"]) for turn in examples[0]["prompt"]] == prompt
    assert tuple(answer["content"] for answer in examples[0]["responses"]) == answers


def test_calls_tools_and_reasoning_come_with_their_messages(shared, tmp_path):
    _, examples = read(shared, tmp_path, "cases/answer_is_tool_call.jsonl")
    call = '{"tool_calls":[{"type":"function","function":{"name":"weather","arguments":{"town":0}}}]}'
    assert [(answer["content"], answer["fields"]) for answer in examples[0]["responses"]] == [
        ("", call),
        ("I can not know 0", None),
    ]
    _, examples = read(shared, tmp_path, "cases/tool_calls_empty_content.jsonl")
    assert [turn["fields"] for turn in examples[0]["prompt"]] == [None, call, '{"tool_call_id":"c1","name":"weather"}']
    assert examples[0]["tools"] == '[{"type":"function","function":{"name":"weather","parameters":{}}}]'
    _, examples = read(shared, tmp_path, "cases/reasoning_field.jsonl")
    assert [answer["fields"] for answer in examples[0]["responses"]] == [
        '{"reasoning_content":"Think about 0"}', '{"reasoning_content":"Hm"}',
    ]  # fmt: skip
