import sys
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from app.domain import problems
from app.domain.dataset import ColumnMapping
from app.domain.errors import DatasetInvalid, InvalidInput, RecipeInvalid
from app.domain.problems import MOST_FAULTS, parse, problems_of
from app.domain.sweep import expand, parse_request


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int = 0


def test_of_many_faults_the_first_are_worded_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    worded: list[str] = []
    sentence = problems._sentence
    monkeypatch.setattr(problems, "_sentence", lambda *parts: worded.append(parts[2]) or sentence(*parts))
    with pytest.raises(InvalidInput) as caught:
        parse(Strict, {f"key{n}": n for n in range(5000)}, InvalidInput)
    assert len(worded) == len(caught.value.problems) == MOST_FAULTS
    assert "(4999 more fields need a look.)" in caught.value.detail


def test_what_was_given_is_never_written_out_in_full() -> None:
    class Untold(dict[str, Any]):
        def __repr__(self) -> str:
            raise AssertionError("written out in full")

    many: Any = [Untold(a=1)] * 10**6
    for value in (many, {"number": many}, {"number": "x" * 10**6}, {"n" * 10**6: 1}):
        with pytest.raises(ValidationError) as caught:
            Strict.model_validate(value)
        assert sum(len(text) for one in problems_of(caught.value) for text in one.values()) < 300


def test_values_nested_without_end_are_worded() -> None:
    value: Any = {}
    for _ in range(sys.getrecursionlimit() * 2):
        value = {"a": value}
    with pytest.raises(InvalidInput, match="whole number"):
        parse(Strict, {"number": value}, InvalidInput)


@pytest.mark.parametrize(
    ("value", "told"),
    [(1e300, "1e+300"), ("a" * 58, repr("a" * 58)), ("a" * 59, "'" + "a" * 56 + "…"), ([1, 2], "[1, 2]"), (None, "None")],
)
def test_what_was_given_is_shown_as_far_as_one_reads(value: Any, told: str) -> None:
    assert problems._short(value) == told


@pytest.mark.parametrize("field", ["columns", "options"])
def test_a_mapping_of_too_many_parts_has_one_fault(field: str) -> None:
    with pytest.raises(DatasetInvalid) as caught:
        parse(ColumnMapping, {"shape": "pair", field: {f"part{n}": {} for n in range(41)}}, DatasetInvalid)
    assert [(one["field"], one["message"]) for one in caught.value.problems] == [(field, "Must not be longer than 40 entries.")]


def test_a_sweep_over_a_recipe_full_of_faults_says_as_many_as_one_run_would() -> None:
    recipe = {f"key{n}": n for n in range(2000)}
    with pytest.raises(RecipeInvalid) as caught:
        expand(parse_request({"recipe": recipe, "lambda": [0.1 + n for n in range(40)]}))
    assert len(caught.value.problems) == MOST_FAULTS


def test_a_setting_inside_a_thousand_others_is_refused_in_a_sentence() -> None:
    with pytest.raises(RecipeInvalid) as caught:
        expand(parse_request({"recipe": {"weights": {}}, "fields": {"a." * 90 + "a": [1]}}))
    assert "no setting so deep" in caught.value.detail
    with pytest.raises(RecipeInvalid, match="200 characters"):
        parse_request({"recipe": {}, "fields": {"a" * 201: [1]}})


def test_a_number_that_no_integer_holds_is_told_as_one() -> None:
    with pytest.raises(InvalidInput, match=r"must be a smaller whole number, not 1e\+308\."):
        parse(Strict, {"number": 1e308}, InvalidInput)
