"""Answers and judges of endpoints as they are asked for: found, told to the runner with its keys, refused in a sentence."""

import pytest
from pydantic import SecretStr

from app.domain.answering.endpoint import NewEndpoint
from app.domain.answering.judge import LlmJudge
from app.domain.errors import InvalidInput
from app.domain.run import RunKind
from app.services import attempts
from app.services.acts import STUDIO
from app.services.answering import answers, endpoints
from app.store.answering.answers import list_judgements
from app.store.tables import Answers, Endpoint
from tests.answered import answer_all, ask, make_prompt_set

KEY = "sk-very-secret-0123456789"


@pytest.fixture
def endpoint(database, settings, user):
    asked = NewEndpoint(name="Lab", address="https://api.example.org/v1", model="small", key=SecretStr(KEY))
    with database.writing() as session:
        return endpoints.add(session, settings, STUDIO, asked)


@pytest.fixture
def prompt_set(database, files, user):
    return make_prompt_set(database, files, user.id)


def judge_with(database, user, answers_id, **judge):
    with database.writing() as session:
        return answers.judge(session, user.id, answers_id, [LlmJudge(**judge)])


def test_a_runner_is_told_of_the_endpoint_and_handed_its_key(database, files, settings, user, endpoint, prompt_set):
    made = ask(database, user.id, prompt_set.id, {"source": "endpoint", "endpoint": endpoint.id})
    assert (made.model_name, made.model_id) == ("Lab", None)
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
        assert claim.kind is RunKind.ANSWERS
        spec = attempts.build_spec(session, files, settings, claim, "cpu")
        keys = attempts.hand_keys(session, settings, spec)
    assert (spec.model, spec.endpoint.address, spec.endpoint.has_key) == (None, "https://api.example.org/v1", True)
    assert KEY not in spec.model_dump_json()
    assert keys == {endpoint.id: KEY}


def test_the_same_question_to_the_same_endpoint_is_asked_once(database, user, endpoint, prompt_set):
    model = {"source": "endpoint", "endpoint": endpoint.id}
    assert ask(database, user.id, prompt_set.id, model).id == ask(database, user.id, prompt_set.id, model).id
    with database.writing() as session:
        session.get_one(Endpoint, endpoint.id).model = "large"
    assert len({ask(database, user.id, prompt_set.id, model).id for _ in range(2)}) == 1
    with database.reading() as session:
        assert session.query(Answers).count() == 2


def test_a_judge_compares_with_ready_answers_to_the_same_prompts(database, files, user, endpoint, prompt_set):
    model = {"source": "endpoint", "endpoint": endpoint.id}
    first = ask(database, user.id, prompt_set.id, model)
    second = ask(database, user.id, prompt_set.id, model, sampling={"max_new_tokens": 8, "seed": 1})
    other_set = make_prompt_set(database, files, user.id, "Another question?", name="Other")
    elsewhere = ask(database, user.id, other_set.id, model)
    for against, told in [
        (second.id, "is not ready yet"), (elsewhere.id, "another prompt set"), ("answers_nothing", "There are no answers"),
    ]:  # fmt: skip
        with pytest.raises(InvalidInput, match=told) as refused:
            judge_with(database, user, first.id, endpoint=endpoint.id, against=against)
        assert refused.value.problems[0]["field"] == "judges.0.against"
    with pytest.raises(InvalidInput, match="There is no endpoint"):
        judge_with(database, user, first.id, endpoint="endpoint_nothing")
    answer_all(database, files, first.id)
    answer_all(database, files, second.id)
    judge_with(database, user, first.id, endpoint=endpoint.id, against=second.id)
    judge_with(database, user, first.id, endpoint=endpoint.id)
    judge_with(database, user, first.id, endpoint=endpoint.id)
    with database.reading() as session:
        found = list_judgements(session, [first.id])
    assert [(one.kind, one.name) for one in found] == [("llm", "Lab against Lab"), ("llm", "Grade by Lab")]


def test_an_endpoint_that_was_removed_ends_the_run_with_a_sentence(database, files, settings, user, endpoint, prompt_set):
    ask(database, user.id, prompt_set.id, {"source": "endpoint", "endpoint": endpoint.id})
    with database.writing() as session:
        endpoints.remove(session, STUDIO, endpoint.id)
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
        with pytest.raises(InvalidInput, match="was removed"):
            attempts.build_spec(session, files, settings, claim, "cpu")
