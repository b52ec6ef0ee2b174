"""Whatever stands in a row, converting it ends in an example or in a reason."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.dataset import ColumnMapping, Shape
from app.domain.errors import StudioError
from app.ingest.columns import SHAPE_ROLES, options_of
from app.ingest.convert import RowCount, convert_rows
from app.ingest.examples import Columns
from app.ingest.ingest import settle_mapping
from app.ingest.limits import Limits
from app.ingest.rows import Row
from app.ingest.survey import Survey

WORDS = [
    "user",
    "assistant",
    "Human",
    "hi",
    "",
    " ",
    "\n\nHuman: a\n\nAssistant: b",
    "<|prompter|>x",
    "\0",
    "\ud800",
    "true",
    "1",
    "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb",
    "[INST] a [/INST] b</s>",
    "Human: a",
    '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]',
    "[{'role': 'assistant', 'content': None, 'tool_calls': [{'name': 'f'}]}]",
    '["a", "b"]',
]
OPTIONS = {  # what decides how texts are read
    "strip_template": st.booleans(), "first_difference": st.booleans(), "lists": st.sampled_from(["", "pairs", "together"]),
    "user_tag": st.sampled_from(["", "Human:", "<|prompter|>"]),
}  # fmt: skip
KEYS = ["role", "content", "from", "value", "text", "replies", "rank", "deleted", "type", "tool_calls", "function", "name"]
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(WORDS) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4), max_leaves=12
)
COLUMNS = [
    "prompt", "chosen", "rejected", "instruction", "input", "messages", "conversations", "response", "response_1", "response_2",
    "label", "rating", "responses", "scores", "prefix", "suffix", "reward", "sft_index", "system", "\ud800", "a\0",
]  # fmt: skip


@pytest.mark.parametrize("shape", Shape)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_row_of_every_shape_is_kept_or_dropped(shape, data):
    roles = {role.name: role for role in SHAPE_ROLES[shape]}
    names = {name: [name] if role.many else name for name, role in roles.items()}
    options = {option.name: data.draw(OPTIONS.get(option.name, st.just(option.default))) for option in options_of(shape)}
    found = data.draw(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(names, VALUES)), max_size=4))
    columns = Columns(ColumnMapping(shape=shape, columns=names, options=options))
    tally = RowCount(columns)
    examples = list(convert_rows((Row(n, row) for n, row in enumerate(found, 1)), columns, tally, Limits()))
    assert tally.num_rows == len(found) == tally.num_kept_rows + sum(item.count for item in tally.dropped())
    for example in examples:
        assert example.draft.prompt
        assert all(answer.content.strip() or "tool_calls" in answer.fields for answer in example.draft.answers)
        assert json.loads(example.draft.tools or "[]") is not None
        json.dumps(json.loads(example.meta)).encode()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(COLUMNS), VALUES, min_size=1, max_size=6), min_size=1, max_size=3))
def test_recognising_any_file_ends_in_a_mapping_or_a_sentence(found):
    survey = Survey(found)
    try:
        mapping = settle_mapping(survey, None)
    except StudioError as error:
        said = f"{error.detail} {error.extra}".encode()
    else:
        said = mapping.model_dump_json().encode()
        list(convert_rows((Row(n, row) for n, row in enumerate(found, 1)), Columns(mapping), RowCount(), Limits()))
    assert b"\0" not in said
