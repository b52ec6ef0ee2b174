"""A mapping that does not fit is answered with one sentence per fault, at its field."""

import pytest

from app.domain.dataset import Shape
from app.domain.errors import DatasetInvalid, MappingNeeded
from app.ingest.columns import NEEDED_TOGETHER, SHAPE_OPTIONS, SHAPE_ROLES, pick
from app.ingest.convert import CONVERTERS

ROW = {"prompt": "Hi", "good": "a", "bad": "b"}


def problems(caught):
    return {problem["field"]: problem["message"] for problem in caught.value.problems}


def test_a_column_that_is_not_there_is_named_with_those_that_are(read_rows):
    columns = {"prompt": "prompt", "chosen": "chosen", "rejected": "bad"}
    with pytest.raises(DatasetInvalid) as caught:
        read_rows(ROW, mapping={"shape": "pair", "columns": columns})
    assert caught.value.detail == 'There is no column "chosen"; found: prompt, good, bad.'
    assert problems(caught) == {"mapping.columns.chosen": 'There is no column "chosen"; found: prompt, good, bad.'}


def test_every_fault_of_a_mapping_is_told_at_once(read_rows):
    columns = {"prompt": "prompt.x", "chosen": ["good", "bad"], "best": "good"}
    with pytest.raises(DatasetInvalid) as caught:
        read_rows(ROW, mapping={"shape": "pair", "columns": columns, "options": {"speed": 1.0}})
    assert set(problems(caught)) == {
        "mapping.columns.chosen",
        "mapping.columns.best",
        "mapping.columns.rejected",
        "mapping.columns.prompt",
        "mapping.options.speed",
    }


@pytest.mark.parametrize(
    ("shape", "columns", "sentence"),
    [
        (
            "two_responses",
            {"prompt": "prompt", "response_a": "good", "response_b": "bad"},
            "label or votes or rating_a and rating_b",
        ),
        ("rated", {"prompt": "prompt", "response": "good"}, "rating or label"),
        ("rated", {"label": "good"}, "prompt and response or messages"),
        ("ranked", {"prompt": "prompt", "responses": "good"}, "ratings or ranks or best_first"),
    ],
)
def test_a_shape_says_which_columns_it_needs_together(read_rows, shape, columns, sentence):
    with pytest.raises(DatasetInvalid, match=sentence):
        read_rows(ROW, mapping={"shape": shape, "columns": columns})


def test_a_right_mapping_reads_unknown_columns(read_rows):
    read = read_rows(ROW, mapping={"shape": "pair", "columns": {"prompt": "prompt", "chosen": "good", "rejected": "bad"}})
    assert read.pairs() == [("a", "b")]


def test_an_unknown_shape_comes_with_columns_rows_and_shapes(read_rows):
    with pytest.raises(MappingNeeded) as caught:
        read_rows(ROW, {**ROW, "good": "x" * 5000, "bad": "\0\ud800"})
    extra = caught.value.extra
    assert extra["columns"][1] == {"name": "good", "type": "text", "example": "a"}
    assert len(extra["rows"][1]["good"]) == 300
    assert extra["rows"][1]["bad"] == "\ufffd?"
    assert "prompt, good, bad" in caught.value.detail


@pytest.mark.parametrize("shape", Shape)
def test_every_shape_explains_its_parts_and_has_a_converter(shape):
    assert shape in CONVERTERS
    assert all(part.help.endswith(".") for part in (*SHAPE_ROLES[shape], *SHAPE_OPTIONS.get(shape, ())))
    names = {role.name for role in SHAPE_ROLES[shape]} | {option.name for option in SHAPE_OPTIONS.get(shape, ())}
    assert all(name in names for line in NEEDED_TOGETHER.get(shape, ()) for group in line for name in group)


def test_dotted_names_reach_into_objects_and_lists():
    row = {"a": {"b": [{"c": 1}, {"c": 2}, 3]}, "x.y": 5}
    assert pick(row, "a.b.c") == [1, 2, None]
    assert pick(row, "a.b.1.c") == 2
    assert pick(row, "x.y") == 5
    assert pick(row, "a.z.c") is None


@pytest.mark.parametrize(
    ("row", "mapping", "field"),
    [
        (
            {"q": "Hi", "a": "text", "r": "text"},
            {"shape": "rated", "columns": {"prompt": "q", "response": "a", "rating": "r"}},
            "mapping.columns.rating",
        ),
        (
            {"q": "Hi", "a": "x", "b": "y", "l": "purple"},
            {"shape": "two_responses", "columns": {"prompt": "q", "response_a": "a", "response_b": "b", "label": "l"}},
            "mapping.columns.label",
        ),
        (
            {"q": "", "a": "x", "b": "y"},
            {"shape": "pair", "columns": {"prompt": "q", "chosen": "a", "rejected": "b"}},
            "mapping.columns.prompt",
        ),
        (
            {"q": "Hi", "a": "", "b": ""},
            {"shape": "pair", "columns": {"prompt": "q", "chosen": "a", "rejected": "b"}},
            "mapping.columns",  # one of the two: which, the reason doesn't say
        ),
    ],
)
def test_a_part_whose_column_makes_every_row_useless_is_named(read_rows, row, mapping, field):
    with pytest.raises(DatasetInvalid) as caught:
        read_rows(row, row, mapping=mapping)
    assert [problem["field"] for problem in caught.value.problems] == [field]


def test_every_fault_of_a_mapping_is_a_sentence(read_rows):
    for mapping in (
        {"shape": "rated", "columns": {"prompt": "prompt", "response": "good"}},
        {"shape": "pair", "columns": {"prompt": "nowhere", "best": "good", "rejected": ["good", "bad"]}, "options": {"speed": 1}},
    ):
        with pytest.raises(DatasetInvalid) as caught:
            read_rows(ROW, mapping=mapping)
        for message in problems(caught).values():
            assert message[0].isupper(), message
            assert message.endswith("."), message
