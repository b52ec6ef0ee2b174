"""Rows with one response and a rating or a verdict."""

import pytest

from app.domain.dataset import Shape
from app.domain.errors import MappingNeeded

ROW = {"prompt": "c#", "response": "A language.", "helpfulness": 3, "correctness": 4}


def test_a_rating_stays_a_rating(read_rows):
    read = read_rows({"prompt": "Hi", "response": "a", "rating": 4}, {"prompt": "Hi", "response": "b", "rating": "x"})
    assert read.shape is Shape.RATED
    assert read.examples[0]["responses"] == [{"content": "a", "rating": 4.0, "preference": None, "fields": None}]
    assert read.dropped == {"missing or unreadable rating": [2]}
    assert (read.audit.has_rating, read.audit.has_preference) == (True, False)


def test_messages_with_a_boolean_become_a_preference(read_rows):
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    read = read_rows({"messages": said, "label": True}, {"messages": said, "label": False}, {"messages": said, "label": None})
    assert [example["responses"][0]["preference"] for example in read.examples] == [1, -1]
    assert read.dropped == {"missing or unknown label": [3]}


def test_prompt_completion_and_label_are_read_as_text_or_messages(read_rows):
    text = read_rows({"prompt": "Hi", "completion": "Hello", "label": True})
    turns = read_rows(
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "completion": [{"role": "assistant", "content": "Hello"}],
            "label": True,
        }
    )
    assert text.examples == turns.examples


def test_several_attributes_are_not_guessed(read_rows):
    with pytest.raises(MappingNeeded) as caught:
        read_rows(ROW)
    assert [column["name"] for column in caught.value.extra["columns"]] == list(ROW)
    assert caught.value.extra["rows"][0]["response"] == "A language."
    assert set(caught.value.extra["shapes"]) == set(Shape)


def test_rows_that_follow_each_other_can_be_grouped(read_rows):
    columns = {"prompt": "prompt", "response": "response", "rating": "helpfulness"}
    rows = [ROW, {**ROW, "response": "A better one.", "helpfulness": 4}, {**ROW, "prompt": "d"}]
    alone = read_rows(*rows, mapping={"shape": "rated", "columns": columns})
    grouped = read_rows(*rows, mapping={"shape": "rated", "columns": columns, "options": {"group_by_prompt": True}})
    assert (alone.audit.num_examples, alone.audit.num_pairs) == (3, 0)
    assert (grouped.audit.num_rows, grouped.audit.num_kept_rows, grouped.audit.num_examples) == (3, 3, 2)
    assert grouped.pairs()[0] == ("A better one.", "A language.")
    assert [response["preference"] for response in grouped.examples[0]["responses"]] == [1, -1]


@pytest.mark.parametrize("row", [
    {"prompt": "Hi", "response": "a", "score": 1, "toxicity": 0.2},
    {"prompt": "Hi", "response": "a", "quality": 1},
    {"prompt": "Hi", "response": "a", "is_english": True},
    {"prompt": "Hi", "response": "a", "label": 1},
    {"prompt": "Hi", "question": "Ho", "response": "a", "score": 1},
])  # fmt: skip
def test_what_could_be_meant_otherwise_is_not_guessed(read_rows, row):
    with pytest.raises(MappingNeeded):
        read_rows(row)
