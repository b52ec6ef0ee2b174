"""Uploaded outputs: matched by the prompts' texts, whatever their order, with a sentence on what did not match."""

import json

import pytest

from app.domain.errors import InvalidInput
from app.services.answering import outputs
from app.store.answering.lines import read_answers
from tests.answered import make_prompt_set


def upload(database, files, prompt_set, listed, name=""):
    with database.writing() as session:
        return outputs.upload(session, files, "user_ada", prompt_set.id, json.dumps(listed), name=name)


def entry(instruction, output):
    return {"instruction": instruction, "output": output, "generator": "other-model"}


def test_outputs_are_matched_by_text_not_by_row(database, files, library):
    prompt_set = make_prompt_set(database, files, library.user.id)
    listed = [entry("What is rain?", "Water."), entry("Why is  the sky blue?", "Light."), entry("Unknown?", "x")]
    answers, remark = upload(database, files, prompt_set, listed)
    assert remark == (
        "2 outputs are matched to 2 of 4 prompts; 2 prompts have no output and "
        "1 output is to no prompt of the set and was left out."
    )
    assert [(row["index"], row["text"]) for row in read_answers(files, answers)] == [(0, "Light."), (1, "Water.")]
    assert (answers.model_name, answers.facts["num_missing"], answers.run_id) == ("other-model", 2, None)
    assert upload(database, files, prompt_set, listed)[0].id == answers.id


def test_several_outputs_to_a_prompt_are_draws(database, files, library):
    prompt_set = make_prompt_set(database, files, library.user.id)
    answers, remark = upload(database, files, prompt_set, [entry("What is rain?", text) for text in "abc"], name="Mine")
    assert answers.num_draws == 3
    assert [row["draw"] for row in read_answers(files, answers)] == [0, 1, 2]
    assert remark.startswith("3 outputs are matched to 1 of 4 prompts")


def test_outputs_to_other_prompts_are_refused(database, files, library):
    prompt_set = make_prompt_set(database, files, library.user.id)
    with pytest.raises(InvalidInput, match="None of the 1 outputs is to a prompt of “Questions”"):
        upload(database, files, prompt_set, [entry("Unknown?", "x")])


def test_outputs_that_another_request_keeps_at_the_same_moment_are_kept_once(database, files, library, monkeypatch):
    prompt_set = make_prompt_set(database, files, library.user.id)
    listed = [entry("What is rain?", "Water.")]
    first, _ = upload(database, files, prompt_set, listed)
    find, looks = outputs.store.find_by_fingerprint, iter([None])
    monkeypatch.setattr(outputs.store, "find_by_fingerprint", lambda *asked: next(looks, find(*asked)))
    second, _ = upload(database, files, prompt_set, listed)
    assert second.id == first.id
    assert [path.name for path in files.answers_dir(first.id).parent.iterdir()] == [first.id]
