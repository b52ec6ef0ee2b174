"""What the launch form is filled with for a data set that was made in the studio."""

import pytest

from app.domain.answering.farm import FarmRequest
from app.services.answering import farm
from app.store.answering.answers import list_judgements
from app.store.files.files import Files
from app.store.tables import Answers, Dataset
from app.web.pages.launch.beginning import begin_with_dataset, propose_share
from tests.answered import answer_all, ask, make_prompt_set


@pytest.fixture
def made(database, files: Files, library):
    """A data set of the policy's answers to three questions, judged by the reward model and by length; its makers by judge."""
    prompt_set = make_prompt_set(database, files, library.user.id)
    judges = [{"kind": "reward", "model": library.reward.id}, {"kind": "length"}]
    answers = ask(database, library.user.id, prompt_set.id, {"source": "model", "model": library.policy.id}, judges=judges)
    answer_all(database, files, answers.id)
    with database.writing() as session:
        keys = {one.kind: one.key for one in list_judgements(session, [answers.id])}
        return {
            kind: farm.make(session, files, library.user.id, answers.id, FarmRequest(judge=key)).id for kind, key in keys.items()
        }


def test_who_answered_and_who_judged_are_chosen_and_more_is_held_out(database, library, made):
    with database.writing() as session:
        session.get_one(Dataset, made["reward"]).num_examples = 640
        values, note = begin_with_dataset(session, library.user.id, made["reward"], {"name": "typed"})
    assert values == {
        "name": "typed", "dataset": made["reward"], "policy.model": library.policy.id, "reward.source": "model",
        "reward.model": library.reward.id, "evaluation.share": "0.3",
    }  # fmt: skip
    assert note is not None
    assert [line.split()[0] for line in note.lines] == ["The", "Rewards", "30"]


def test_a_judge_that_is_no_reward_model_gives_no_rewards(database, library, made):
    with database.reading() as session:
        values, _ = begin_with_dataset(session, library.user.id, made["length"], {})
    assert "reward.source" not in values
    assert values["policy.model"] == library.policy.id


def test_answers_that_are_gone_and_data_from_elsewhere_propose_nothing(database, library, made):
    with database.writing() as session:
        dataset = session.get_one(Dataset, made["length"])
        dataset.made_from = {"answers": "answers_gone", "judge": "x"}
        assert begin_with_dataset(session, library.user.id, dataset.id, {}) == ({"dataset": dataset.id}, None)
        assert begin_with_dataset(session, library.user.id, library.dataset.id, {}) == ({"dataset": library.dataset.id}, None)
        assert begin_with_dataset(session, library.user.id, "data_gone", {}) == ({"dataset": "data_gone"}, None)


def test_private_answers_tell_nobody_else_who_judged(database, library, made):
    with database.writing() as session:
        other = session.get_one(Dataset, made["reward"])
        session.get_one(Answers, other.made_from["answers"]).private = True
        session.flush()
        assert begin_with_dataset(session, "user_other", other.id, {}) == ({"dataset": other.id}, None)


@pytest.mark.parametrize(("num_examples", "share"), [(0, 0.3), (640, 0.3), (1000, 0.2), (4000, 0.05), (10**6, 0.05)])
def test_a_test_set_is_large_enough_wherever_it_can_be(num_examples, share):
    assert propose_share(num_examples) == pytest.approx(share)
