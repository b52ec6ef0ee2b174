"""The tick “private” of each form that makes something: what is made is its maker's and the admins' alone."""

from typing import Any

import pytest

from app.store.tables import Answers, Comparison, Dataset, Model, PromptSet, Run, Scoring, Sweep
from tests.web.conftest import PAIRS, Studio
from tests.web.test_new_comparison import policies as policies

Form = dict[str, Any]
LAUNCH: Form = {"dataset": "data_pairs", "policy.model": "model_policy", "reward.source": "preference"}
FILE = {"file": ("pairs.jsonl", PAIRS)}
PROMPTS = {"file": ("prompts.txt", "Where is it?\n")}


@pytest.fixture
def make(studio: Studio) -> Any:
    """Send a form; the thing that it leads to."""
    studio.ingredients()

    def make_one(table: type[Any], address: str, form: Form, files: Any = None) -> Any:
        answer = studio.browser().post(address, data=form, files=files)
        assert answer.status_code == 303, answer.text[-2000:]
        with studio.database.reading() as session:
            return session.get_one(table, answer.headers["location"].split("?")[0].rsplit("/", 1)[-1])

    return make_one


@pytest.mark.parametrize("ticked", [{}, {"private": "yes"}])
def test_a_launch_an_upload_and_a_prompt_set_are_private_where_that_is_ticked(make: Any, ticked: Form) -> None:
    made = [
        make(Run, "/runs/new", {**LAUNCH, "weights.lambda": "1", **ticked}),
        make(Sweep, "/runs/new", {**LAUNCH, "weights.lambda": "1, 2", **ticked}),
        make(Dataset, "/datasets/new", ticked, FILE),
        make(PromptSet, "/prompt-sets/new", {"text": f"Where is it? {ticked}", **ticked}),
        make(PromptSet, "/prompt-sets/file", {"name": str(ticked), **ticked}, PROMPTS),
    ]
    assert [thing.private for thing in made] == [bool(ticked)] * len(made)


def test_all_runs_of_a_private_sweep_and_the_scoring_of_a_private_launch_are_private(studio: Studio, make: Any) -> None:
    sweep = make(Sweep, "/runs/new", {**LAUNCH, "weights.lambda": "1, 3", "private": "yes"})
    studio.browser().post("/runs/new/score", data={**LAUNCH, "max_examples": "7", "weights.lambda": "1", "private": "yes"})
    with studio.database.reading() as session:
        assert all(run.private for run in session.query(Run).where(Run.sweep_id == sweep.id))
        assert session.query(Scoring).order_by(Scoring.id.desc()).first().private


def test_the_answers_of_a_private_question_and_all_that_is_made_for_a_private_comparison_are_private(
    studio: Studio, make: Any, policies: list[str]
) -> None:
    prompts = make(PromptSet, "/prompt-sets/new", {"text": "How far is it?"})
    ask = {"model": "model:model_policy", "private": "yes"}
    answers = make(Answers, f"/prompt-sets/{prompts.id}/ask", ask)
    assert answers.private
    outputs = {"file": ("outputs.json", '[{"instruction": "How far is it?", "output": "Near.", "generator": "Far model"}]')}
    assert make(Answers, "/answers/file", {"prompt_set": prompts.id, "private": "yes"}, outputs).private
    form = {"contestant": policies, "prompts": "text", "text": "Who is private?", "private": "yes"}
    comparison = make(Comparison, "/comparisons/new", form)
    with studio.database.reading() as session:
        parts = [session.get_one(Answers, key) for key in comparison.answers_ids]
        makers = [session.get_one(Run, str(part.run_id)) for part in parts]
        assert all(one.private for one in (comparison, session.get_one(PromptSet, comparison.prompt_set_id), *parts, *makers))


def test_a_model_is_private_where_that_is_ticked_or_its_run_is(make: Any, client: Any, studio: Studio) -> None:
    form = {"kind": "policy", "source": "hub", "name": "small/private", "private": "yes"}
    assert make(Model, "/models", form).private
    assert not make(Model, "/models", {**form, "private": ""}).private
    asked = {"kind": "policy", "source": "hub", "name": "small/private"}
    assert client.post("/api/v1/models?private=true", json=asked).json()["private"]
    again = studio.browser().post("/models", data={**form, "name": ""})
    assert (again.status_code, 'value="yes" checked' in again.text) == (422, True)


def test_a_clone_of_a_private_run_begins_private(studio: Studio, make: Any) -> None:
    private = make(Run, "/runs/new", {**LAUNCH, "weights.lambda": "1", "private": "yes"})
    shared = make(Run, "/runs/new", {**LAUNCH, "weights.lambda": "1"})
    ticks = [
        'name="private" value="yes" checked' in studio.browser().get(f"/runs/new?clone={run.id}").text
        for run in (private, shared)
    ]
    assert ticks == [True, False]
