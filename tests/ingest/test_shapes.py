"""Data without preferences is refused in a sentence; what fits two shapes is not guessed."""

import pytest

from app.domain.errors import DatasetInvalid, MappingNeeded


@pytest.mark.parametrize("row", [
    {"instruction": "a", "input": "b", "output": "c"},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"id": 1, "prompt": "a", "completion": "b"},
])  # fmt: skip
def test_plain_answers_are_refused_for_having_no_preference(read_rows, row):
    with pytest.raises(DatasetInvalid, match="without any preference") as caught:
        read_rows(row)
    assert not isinstance(caught.value, MappingNeeded)


@pytest.mark.parametrize("row", [{"prompt": "a"}, {"question_id": 1, "category": "x", "turns": ["a", "b"]}])
def test_prompts_alone_are_refused(read_rows, row):
    with pytest.raises(DatasetInvalid, match="prompts without responses") as caught:
        read_rows(row)
    assert not isinstance(caught.value, MappingNeeded)


@pytest.mark.parametrize("row", [
    {"chosen": "a", "rejected": "b"},
    {"prompt": "p", "question": "q", "chosen": "a", "rejected": "b"},
    {"prompt": "p", "chosen": "a", "rejected": "b", "response_j": "c", "response_k": "d"},
    {"prompt": "p", "chosen": "a", "rejected": 3},
    {"prompt": "p", "response_1": "a", "response_2": "b", "label": 2, "preference": 1},
    {"prompt": "p", "response_1": "a", "response_2": "b", "label": 7},
    {"frage": "p", "gut": "a", "schlecht": "b"},
])  # fmt: skip
def test_what_leaves_a_doubt_is_not_guessed(read_rows, row):
    with pytest.raises(MappingNeeded, match="Map them"):
        read_rows(row)


def test_later_rows_may_lack_columns_or_order_them_otherwise(read_rows):
    read = read_rows(
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"rejected": "b", "chosen": "a", "prompt": "p"},
        {"prompt": "p", "chosen": "a"},
    )
    assert read.audit.num_kept_rows == 2
    assert read.dropped == {"missing response": [3]}
