"""Answers: asked for once, made by one run, judged later, deleted when nothing shows them."""

import pytest

from app.domain.answering.answers import AnswersRequest
from app.domain.answering.prompt_set import PromptSetRequest
from app.domain.errors import Conflict, InvalidInput, NotFound
from app.domain.events import OutcomeReached
from app.domain.run import Outcome, RunState
from app.services import attempts, runs
from app.services import models as model_service
from app.services.answering import answers, prompt_sets, specs
from app.store.answering import answers as store
from app.store.database import now
from app.store.tables import Answers, Comparison, Judgement, Model, PromptSet, Run, User
from app.system.identifiers import new_id
from tests.answered import QUESTIONS, answer_all, ask, make_prompt_set

LENGTH = {"kind": "length"}


@pytest.fixture
def prompt_set(database, files, library):
    return make_prompt_set(database, files, library.user.id)


@pytest.fixture
def model(library):
    return {"source": "model", "model": library.policy.id}


def judge(database, answers_id, *judges):
    from app.domain.answering.judge import read_judge

    with database.writing() as session:
        return answers.judge(session, "user_ada", answers_id, [read_judge(one) for one in judges])


def list_runs(database):
    with database.reading() as session:
        return [(run.kind, run.state) for run in session.query(Run).order_by(Run.id)]


def test_the_same_question_is_asked_once(database, files, library, prompt_set, model):
    first, again = (ask(database, library.user.id, prompt_set.id, model) for _ in range(2))
    assert first.id == again.id
    assert list_runs(database) == [("answers", "queued")]
    answer_all(database, files, first.id)
    assert ask(database, library.user.id, prompt_set.id, model).facts["num_answers"] == 8
    assert list_runs(database) == [("answers", "succeeded")]
    other = ask(database, library.user.id, prompt_set.id, model, sampling={"max_new_tokens": 8, "seed": 1})
    assert other.id != first.id


def add_eve(database):
    with database.writing() as session:
        session.add(User(id="user_eve", name="Eve", role="member", created_at=now(session)))
    return "user_eve"


def test_what_another_member_shares_is_not_answered_anew(database, files, library, prompt_set, model):
    eve = add_eve(database)
    first = ask(database, library.user.id, prompt_set.id, model, judges=[LENGTH])
    assert ask(database, eve, prompt_set.id, model, judges=[LENGTH]).id == first.id
    answer_all(database, files, first.id)
    assert ask(database, eve, prompt_set.id, model).id == first.id
    assert list_runs(database) == [("answers", "succeeded")]
    judged_too = ask(database, eve, prompt_set.id, model, judges=[LENGTH, {"kind": "pattern", "pattern": "yes"}])
    assert (judged_too.id != first.id, judged_too.owner_id) == (True, eve)
    with database.reading() as session:
        assert [one.kind for one in store.list_judgements(session, [first.id])] == ["length"]


def test_what_is_private_to_another_is_answered_anew_and_so_is_what_shall_be_private(database, files, library, prompt_set, model):
    eve = add_eve(database)
    first = ask(database, library.user.id, prompt_set.id, model)
    answer_all(database, files, first.id)
    asked = AnswersRequest.model_validate(
        {"prompt_set": prompt_set.id, "model": model, "n": 2, "sampling": {"max_new_tokens": 8}}
    )
    with database.writing() as session:
        own = answers.request(session, eve, asked, private=True)
        assert (own.owner_id, own.private) == (eve, True)
        session.get_one(Answers, first.id).private = True
    with database.writing() as session:
        assert answers.request(session, eve, asked).id == own.id
        assert answers.request(session, library.user.id, asked).id == first.id
        session.delete(session.get_one(Answers, own.id))
    again = ask(database, eve, prompt_set.id, model)
    assert (again.owner_id, again.private) == (eve, False)


def test_prompts_that_another_member_shares_are_taken_where_that_will_do(database, files, library, prompt_set):
    eve = add_eve(database)
    with database.writing() as session:
        gathered = prompt_sets.gather(session, files, eve, PromptSetRequest(name=prompt_set.name, text=QUESTIONS))
        assert prompt_sets.keep(session, files, eve, gathered, or_shared=True).id == prompt_set.id
        session.get_one(PromptSet, prompt_set.id).private = True
        session.flush()
        assert prompt_sets.keep(session, files, eve, gathered, or_shared=True).owner_id == eve


def test_a_judge_that_is_asked_later_makes_a_run_of_its_own(database, files, library, prompt_set, model):
    first = ask(database, library.user.id, prompt_set.id, model)
    answer_all(database, files, first.id)
    judge(database, first.id, LENGTH)
    judge(database, first.id, LENGTH)
    assert list_runs(database) == [("answers", "succeeded"), ("answers", "queued")]
    answer_all(database, files, first.id)
    with database.reading() as session:
        (judgement,) = store.list_judgements(session, [first.id])
        assert judgement.facts["mean"] == 1.5
    judge(database, first.id, LENGTH)
    assert len(list_runs(database)) == 2


def test_a_judge_that_is_asked_later_leaves_the_run_and_the_seconds_of_the_answers(database, files, library, prompt_set, model):
    asked = ask(database, library.user.id, prompt_set.id, model)
    made_by = answer_all(database, files, asked.id)
    with database.writing() as session:
        row = session.get_one(Answers, asked.id)
        row.facts = {**row.facts, "seconds": 12.5}
    judge(database, asked.id, LENGTH)
    with database.reading() as session:
        (row,) = store.describe_answers(session, [session.get_one(Answers, asked.id)])
        assert row.answers.run_id == made_by
        assert answers.standing_of(row.answers, row.run) == "queued"
    judged_by = answer_all(database, files, asked.id)
    with database.reading() as session:
        (row,) = store.describe_answers(session, [session.get_one(Answers, asked.id)])
        assert (row.answers.run_id, row.run.id, row.answers.facts["seconds"]) == (made_by, made_by, 12.5)
        assert row.judgements[0].run_id == judged_by != made_by


def test_a_judge_that_is_asked_while_a_run_is_at_the_answers_is_asked_after_it(database, files, library, prompt_set, model):
    first = ask(database, library.user.id, prompt_set.id, model)
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
    judge(database, first.id, LENGTH)
    with database.writing() as session:
        attempts.finish(session, claim.run_id, claim.token, OutcomeReached(outcome=Outcome.SUCCEEDED))
    assert list_runs(database) == [("answers", "succeeded"), ("answers", "queued")]
    with database.reading() as session:
        assert session.get_one(Answers, first.id).run_id != claim.run_id
        assert session.query(Judgement).one().run_id == session.get_one(Answers, first.id).run_id


def test_asking_again_after_a_failure_goes_on_with_the_same_run(database, library, prompt_set, model):
    first = ask(database, library.user.id, prompt_set.id, model)
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
        attempts.finish(session, claim.run_id, claim.token, OutcomeReached(outcome=Outcome.FAILED, reason="x", retry=False))
    with database.reading() as session:
        assert answers.standing_of(session.get_one(Answers, first.id), session.get_one(Run, claim.run_id)) == "failed"
    ask(database, library.user.id, prompt_set.id, model)
    assert list_runs(database) == [("answers", "queued")]


def test_the_runner_is_told_where_all_is(database, files, settings, library, prompt_set, model):
    asked = ask(database, library.user.id, prompt_set.id, model, judges=[LENGTH])
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
        spec = attempts.build_spec(session, files, settings, claim, "cpu")
    assert (spec.kind, spec.num_draws, spec.num_processes) == ("answers", 2, 1)
    assert spec.answers_dir == str(files.answers_dir(asked.id))
    assert spec.prompts_path.endswith("/prompts.jsonl")
    assert [job.judge.kind for job in spec.judges] == ["length"]
    assert spec.model is not None


def test_a_runs_model_answers_at_its_end_and_at_a_kept_checkpoint(database, files, library, prompt_set):
    from app.domain.events import ArtifactWritten, CheckpointSaved
    from app.store import journal

    with database.writing() as session:
        run = runs.launch(session, library.user.id, library.recipe())
        with pytest.raises(InvalidInput, match="is queued, so it has no model yet"):
            answers.choose(session, library.user.id, answers.AnswersRequest.model_validate(
                {"prompt_set": "x", "model": {"source": "run", "run": run.id}}
            ).model)  # fmt: skip
        claim = attempts.begin(session, "worker", 30)
        weights = ArtifactWritten(name="model/model.safetensors", title="", size_bytes=1, sha256="ab")
        journal.append(session, run, [CheckpointSaved(step=2, name="step-000002", size_bytes=1), weights])
        attempts.finish(session, run.id, claim.token, OutcomeReached(outcome=Outcome.SUCCEEDED))
    end = ask(database, library.user.id, prompt_set.id, {"source": "run", "run": run.id})
    early = ask(database, library.user.id, prompt_set.id, {"source": "run", "run": run.id, "step": 2})
    assert (end.model_run_id, early.model_run_id) == (run.id, run.id)
    assert end.fingerprint != early.fingerprint
    assert early.model_name.endswith("at step 2")
    with database.reading() as session:
        told = specs.describe_answers(session, files, database.settings, session.get_one(Run, early.run_id))
        assert (told["checkpoint"].step, told["checkpoint"].policy.adaptation) == (2, "full")
        whole = specs.describe_answers(session, files, database.settings, session.get_one(Run, end.run_id))
        assert whole["model"].path.endswith("/artifacts/model")
    with pytest.raises(InvalidInput, match="keeps no checkpoint of step 3: there are those of step 2"):
        ask(database, library.user.id, prompt_set.id, {"source": "run", "run": run.id, "step": 3})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": {"source": "model", "model": "model_gone"}}, "There is no model 'model_gone'"),
        ({"n": 64, "sampling": {"max_new_tokens": 32_768}}, None),
        ({"judges": [{"kind": "exact"}]}, "No prompt of “Questions” has a reference answer"),
        ({"judges": [{"kind": "reward", "model": "model_gone"}]}, "There is no model 'model_gone'"),
    ],
)
def test_what_can_not_be_asked_is_said_in_a_sentence(database, library, prompt_set, model, changes, sentence):
    if sentence is None:  # 4 prompts are too few to be too much
        assert ask(database, library.user.id, prompt_set.id, **{"model": model, **changes})
        return
    with pytest.raises(InvalidInput, match=sentence):
        ask(database, library.user.id, prompt_set.id, **{"model": model, **changes})


def test_too_many_tokens_are_refused(database, files, library, model):
    many = make_prompt_set(database, files, library.user.id, "\n".join(f"Question {k}?" for k in range(100)))
    with pytest.raises(InvalidInput, match="may come to 209,715,200 tokens"):
        ask(database, library.user.id, many.id, model, n=64, sampling={"max_new_tokens": 32_768})


def test_questions_of_several_turns_need_a_chat_template(database, files, library, model):
    several = make_prompt_set(database, files, library.user.id, '{"turns": ["What is rain?", "And snow?"]}')
    assert several.facts["num_several_turns"] == 1
    with database.writing() as session:
        session.get_one(Model, library.policy.id).facts = {"has_chat_template": False}
    with pytest.raises(InvalidInput, match="1 of the 1 prompts of “Questions” have several turns"):
        ask(database, library.user.id, several.id, model)
    assert ask(database, library.user.id, several.id, model, sampling={"prompt_format": "plain"})


def test_a_chat_template_that_is_not_there_is_not_waited_for(database, library, prompt_set, model):
    with database.writing() as session:
        session.get_one(Model, library.policy.id).facts = {"has_chat_template": False}
    with pytest.raises(InvalidInput, match="has no chat template: take another model, or the prompt format “plain”") as refused:
        ask(database, library.user.id, prompt_set.id, model, sampling={"prompt_format": "chat"})
    assert refused.value.problems[0]["field"] == "sampling.prompt_format"
    assert ask(database, library.user.id, prompt_set.id, model)


def test_what_is_in_use_is_not_deleted(database, files, library, prompt_set, model):
    asked = ask(database, library.user.id, prompt_set.id, model)
    with pytest.raises(Conflict, match="is making or judging"), database.writing() as session:
        answers.delete(session, files, library.user.id, asked.id)
    with pytest.raises(Conflict, match="are to this prompt set: delete them first"), database.writing() as session:
        prompt_sets.delete(session, files, library.user.id, prompt_set.id)
    answer_all(database, files, asked.id)
    with pytest.raises(Conflict, match="given or judged by this model"), database.writing() as session:
        model_service.delete(session, files, library.user.id, library.policy.id)
    with database.writing() as session:
        session.add(
            Comparison(
                id=new_id("comparison"), owner_id=library.user.id, name="A against B", prompt_set_id=prompt_set.id,
                answers_ids=[asked.id], created_at=now(session),
            )
        )  # fmt: skip
    with pytest.raises(Conflict, match="“A against B” shows these answers"), database.writing() as session:
        answers.delete(session, files, library.user.id, asked.id)
    with database.writing() as session:
        session.query(Comparison).delete()
        answers.delete(session, files, library.user.id, asked.id)
    assert not files.answers_dir(asked.id).exists()
    assert list_runs(database) == []
    with database.writing() as session:
        prompt_sets.delete(session, files, library.user.id, prompt_set.id)
    assert not files.prompt_set_dir(prompt_set.id).exists()


def test_somebody_elses_private_answers_are_not_there(database, library, prompt_set, model):
    asked = ask(database, library.user.id, prompt_set.id, model)
    with database.writing() as session:
        assert store.get_answers(session, "user_other", asked.id).owner == "Ada"
        session.get_one(PromptSet, prompt_set.id).private = True
    with database.reading() as session, pytest.raises(NotFound):
        store.get_answers(session, "user_other", asked.id)
    with pytest.raises(NotFound):
        ask(database, "user_other", prompt_set.id, model)


def test_a_run_that_makes_answers_is_not_cloned(database, library, prompt_set, model):
    asked = ask(database, library.user.id, prompt_set.id, model)
    with database.writing() as session, pytest.raises(Conflict, match="ask for them again instead"):
        runs.clone(session, library.user.id, asked.run_id)
    with database.writing() as session:
        assert runs.request_cancel(session, library.user.id, asked.run_id).state == RunState.CANCELLED
