"""Answers and scores read from their parts: a page of prompts touches only the parts that hold it."""

import json

import pytest

from app.domain.answering.layout import name_part, prompts_per_part
from app.store.answering.lines import prompts_path, read_answers, read_prompts, read_scores
from app.store.files.files import Files
from app.store.tables import Answers, PromptSet

LONG = 32_768 // 4  # tokens, so that a part holds two prompts of two draws


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def make_answers() -> Answers:
    return Answers(id="answers_1", num_draws=2, sampling={"max_new_tokens": LONG})


def write_parts(files: Files, numbers, folder=None) -> None:
    folder = folder or files.answers_dir("answers_1")
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        rows = [
            {"index": i, "draw": d, "text": f"{i}/{d}", "score": i + d / 10} for i in (2 * number, 2 * number + 1) for d in (0, 1)
        ]
        (folder / name_part(number)).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_part_holds_as_many_prompts_as_its_tokens_allow():
    assert prompts_per_part(2, LONG) == 2
    assert prompts_per_part(64, 32_768) == 1
    assert prompts_per_part(1, 1) == 256


def test_a_page_of_answers_reads_the_parts_that_hold_it(files):
    write_parts(files, [0, 1, 2])
    found = read_answers(files, make_answers(), start=1, limit=2)
    assert [(row["index"], row["draw"]) for row in found] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    files.answers_dir("answers_1").joinpath(name_part(2)).write_text("not JSON")
    assert len(read_answers(files, make_answers(), start=0, limit=4)) == 8


def test_parts_that_are_not_there_yet_are_left_out(files):
    assert read_answers(files, make_answers()) == []
    write_parts(files, [1])
    assert {row["index"] for row in read_answers(files, make_answers())} == {2, 3}
    assert read_answers(files, make_answers(), start=0, limit=2) == []


def test_scores_are_found_by_prompt_and_draw(files):
    write_parts(files, [0], files.scores_dir("answers_1", "judge"))
    assert read_scores(files, make_answers(), "judge") == {(0, 0): 0.0, (0, 1): 0.1, (1, 0): 1.0, (1, 1): 1.1}
    assert read_scores(files, make_answers(), "another") == {}


def test_a_page_of_prompts_is_read_in_order(files):
    path = prompts_path(files, "prompts_1")
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps({"index": k}) + "\n" for k in range(5)))
    prompt_set = PromptSet(id="prompts_1", num_prompts=5)
    assert [row["index"] for row in read_prompts(files, prompt_set, 1, 2)] == [1, 2]
    assert len(read_prompts(files, prompt_set)) == 5
