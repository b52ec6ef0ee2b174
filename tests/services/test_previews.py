"""Previews: a queue of requests, answered once each, whose answers are kept."""

import time

import pytest

from app.domain.errors import Conflict, InvalidInput, NotFound, TooManyRequests
from app.domain.preview.weights import PreviewRequest, PreviewResult
from app.domain.scoring import ScoringFacts
from app.services import previews, scorings
from app.store import previews as store
from app.store.database import Database, now
from app.store.files.files import Files
from app.store.tables import Dataset, Preview, Scoring, User
from tests.conftest import Library, make_library
from tests.scored import make_check, make_facts

RESULT = PreviewResult(cells=[], suggestions=[], check=make_check(), findings=[], num_batches=2, num_responses=20, seconds=0.1)


def make_scoring(database: Database, library: Library, facts: ScoringFacts | None) -> str:
    with database.writing() as session:
        scoring = scorings.request(session, library.user.id, library.recipe())
        scoring.facts = facts.model_dump(mode="json") if facts else None
        return scoring.id


@pytest.fixture
def scoring_id(either_database: Database) -> str:
    return make_scoring(either_database, make_library(either_database), make_facts())


def ask(database: Database, scoring_id: str, owner: str = "user_ada", **parts: object) -> Preview:
    with database.writing() as session:
        return previews.ask(session, owner, scoring_id, PreviewRequest.model_validate(parts))


def begin(database: Database, files: Files, worker: str = "one", lease_seconds: float = 30.0) -> previews.PreviewClaim | None:
    with database.writing() as session:
        return previews.begin(session, files, worker, lease_seconds)


def read(database: Database, preview_id: str) -> Preview:
    with database.reading() as session:
        return store.get(session, "user_ada", preview_id)


def test_equal_requests_are_one_preview(either_database: Database, scoring_id: str) -> None:
    first = ask(either_database, scoring_id)
    assert first.state == "waiting"
    assert ask(either_database, scoring_id, **{"lambda": [0.03, 0.1, 0.3, 1.0, 3.0, 3.0]}).id == first.id
    assert ask(either_database, scoring_id, target_ess=0.4).id != first.id


def test_the_workers_are_hinted_at_it(database: Database, library: Library) -> None:
    scoring_id = make_scoring(database, library, make_facts())
    sent: list[str] = []
    database.hints.send = sent.append  # type: ignore[method-assign]
    assert sent == []
    preview = ask(database, scoring_id)
    assert sent == [preview.id]


def test_a_worker_gets_the_job_with_its_own_paths(either_database: Database, files: Files, scoring_id: str) -> None:
    preview = ask(either_database, scoring_id, presets=["paper"])
    claim = begin(either_database, files)
    assert claim is not None
    assert claim.preview_id == preview.id
    assert claim.job.scorings_dir == str(files.scorings_dir)
    assert claim.job.dataset_path == str(files.dataset_dir("data_pairs") / "examples.parquet")
    assert (claim.job.index_key, claim.job.logprob_key, claim.job.reward_key) == ("index-aaaa", "logprob-aaaa", None)
    assert (claim.job.reward_source, claim.job.batch_size) == ("preference", 8)
    assert PreviewRequest.model_validate(claim.job.request).presets == ["paper"]
    assert begin(either_database, files, "two") is None


def test_the_one_that_waits_longest_is_first(either_database: Database, files: Files, scoring_id: str) -> None:
    asked = [ask(either_database, scoring_id, target_ess=share).id for share in (0.2, 0.3, 0.4)]
    claims = [begin(either_database, files) for _ in asked]
    assert [claim.preview_id for claim in claims if claim] == asked


def lend(database: Database, scoring_id: str, name: str) -> str:
    """A scoring like this one, of another user; its id."""
    with database.writing() as session:
        known = session.get_one(Scoring, scoring_id)
        facts = {column.key: getattr(known, column.key) for column in Scoring.__table__.columns}
        session.add(User(id=f"user_{name}", name=name, role="member", created_at=now(session)))
        session.flush()
        session.add(Scoring(**{**facts, "id": f"scoring_{name}", "owner_id": f"user_{name}"}))
    return f"scoring_{name}"


def test_owners_take_turns_however_many_previews_one_asks_for(either_database: Database, files: Files, scoring_id: str) -> None:
    mine = [ask(either_database, scoring_id, noise_seed=seed).id for seed in range(30)]
    claims = [begin(either_database, files)]
    other = lend(either_database, scoring_id, "eve")
    theirs = [ask(either_database, other, owner="user_eve", noise_seed=seed).id for seed in range(2)]
    for _ in range(4):
        assert claims[-1] is not None
        with either_database.writing() as session:
            assert previews.finish(session, claims[-1].preview_id, "one", RESULT)
        claims.append(begin(either_database, files))
    assert [claim.preview_id for claim in claims if claim] == [mine[0], theirs[0], mine[1], theirs[1], mine[2]]


def test_a_second_worker_takes_a_preview_of_another_owner(either_database: Database, files: Files, scoring_id: str) -> None:
    mine = [ask(either_database, scoring_id, noise_seed=seed).id for seed in range(3)]
    other = lend(either_database, scoring_id, "eve")
    (theirs,) = [ask(either_database, other, owner="user_eve").id]
    claims = [begin(either_database, files, worker) for worker in ("one", "two", "three")]
    assert [claim.preview_id for claim in claims if claim] == [mine[0], theirs, mine[1]]


def test_an_owner_has_so_many_waiting_and_no_more(
    either_database: Database, scoring_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_WAITING", 3)
    for seed in range(3):
        ask(either_database, scoring_id, noise_seed=seed)
    with pytest.raises(TooManyRequests, match="3 of your previews wait"):
        ask(either_database, scoring_id, noise_seed=3)
    assert ask(either_database, scoring_id, noise_seed=0).state == "waiting"  # asked for again, it waits already
    assert ask(either_database, lend(either_database, scoring_id, "eve"), owner="user_eve").state == "waiting"


def test_an_answer_is_kept_and_given_again(either_database: Database, files: Files, scoring_id: str) -> None:
    preview = ask(either_database, scoring_id)
    assert begin(either_database, files) is not None
    with either_database.writing() as session:
        assert previews.finish(session, preview.id, "one", RESULT)
    assert ask(either_database, scoring_id).state == "done"
    with either_database.reading() as session:
        assert previews.find_answer(session, "user_ada", scoring_id, PreviewRequest()) == RESULT
        assert previews.find_answer(session, "user_ada", scoring_id, PreviewRequest(target_ess=0.1)) is None


def test_a_lost_lease_goes_to_another_and_the_late_answer_is_refused(
    either_database: Database, files: Files, scoring_id: str
) -> None:
    preview = ask(either_database, scoring_id)
    assert begin(either_database, files, "slow", lease_seconds=0.05) is not None
    time.sleep(0.06)
    with either_database.reading() as session:
        assert store.has_claimable(session, now(session))
    assert begin(either_database, files, "quick") is not None
    with either_database.writing() as session:
        assert not previews.renew(session, preview.id, "slow", 30)
        assert not previews.finish(session, preview.id, "slow", RESULT)
        assert not previews.fail(session, preview.id, "slow", {"detail": "too late"})
        assert previews.renew(session, preview.id, "quick", 30)
    assert read(either_database, preview.id).state == "computing"


def test_one_that_failed_is_computed_anew_when_asked_for_again(either_database: Database, files: Files, scoring_id: str) -> None:
    preview = ask(either_database, scoring_id)
    assert begin(either_database, files) is not None
    with either_database.writing() as session:
        assert previews.fail(session, preview.id, "one", {"detail": "The previewing process has died."})
    assert read(either_database, preview.id).error == {"detail": "The previewing process has died."}
    again = ask(either_database, scoring_id)
    assert (again.id, again.state, again.error) == (preview.id, "waiting", None)


def test_other_artifacts_make_another_preview(database: Database, library: Library) -> None:
    scoring_id = make_scoring(database, library, make_facts())
    first = ask(database, scoring_id)
    with database.writing() as session:
        session.get_one(Scoring, scoring_id).facts = make_facts(index_key="index-bbbb").model_dump(mode="json")
    assert ask(database, scoring_id).id != first.id


def test_old_answers_are_dropped(database: Database, files: Files, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "KEEP_ANSWERS", 3)
    scoring_id = make_scoring(database, library, make_facts())
    asked = []
    for share in (0.1, 0.2, 0.3, 0.4, 0.5):
        asked.append(ask(database, scoring_id, target_ess=share).id)
        begin(database, files)
        with database.writing() as session:
            previews.finish(session, asked[-1], "one", RESULT)
    with database.reading() as session:
        assert [session.get(Preview, one) is not None for one in asked] == [False, False, True, True, True]


def test_a_scoring_in_the_making_says_so(database: Database, library: Library) -> None:
    scoring_id = make_scoring(database, library, None)
    with pytest.raises(Conflict, match="The scoring “Pairs · Small policy” waits for a worker: preview it when it is made"):
        ask(database, scoring_id)


def test_nobody_previews_anothers_private_scoring(database: Database, library: Library) -> None:
    scoring_id = make_scoring(database, library, make_facts())
    preview = ask(database, scoring_id)
    with database.writing() as session:
        assert store.get(session, "user_eve", preview.id).id == preview.id
        session.get_one(Dataset, library.dataset.id).private = True
        with pytest.raises(NotFound):
            previews.ask(session, "user_eve", scoring_id, PreviewRequest())
        with pytest.raises(NotFound):
            store.get(session, "user_eve", preview.id)


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"colour": "red"}, "weights.colour"),
        ({"weight_form": "priors"}, "weights.weight_form"),
        ({"lambda": "2"}, "weights.lambda"),
    ],
)
def test_an_override_that_is_none_is_named(database: Database, library: Library, overrides: dict[str, str], field: str) -> None:
    scoring_id = make_scoring(database, library, make_facts())
    with pytest.raises(InvalidInput, match=field) as caught:
        ask(database, scoring_id, overrides=overrides)
    assert caught.value.problems[0]["field"] == field


def test_an_override_is_kept_as_a_setting_has_it(database: Database, library: Library) -> None:
    scoring_id = make_scoring(database, library, make_facts())
    preview = ask(database, scoring_id, overrides={"mean_one": "false", "logprob_norm": "mean"})
    assert preview.job["request"]["overrides"] == {"logprob_norm": "mean", "mean_one": "off"}


def test_swapped_labels_are_refused_where_the_rewards_are_not_labels(database: Database, library: Library) -> None:
    with database.writing() as session:
        scoring = scorings.request(session, library.user.id, library.recipe(reward={"source": "rating"}))
        scoring.facts, scoring_id = make_facts().model_dump(mode="json"), scoring.id
    with pytest.raises(InvalidInput, match="as the rewards come from a rating: use reward_std, or") as caught:
        ask(database, scoring_id, label_flip_share=0.2)
    assert [problem["field"] for problem in caught.value.problems] == ["label_flip_share"]
    assert ask(database, scoring_id, label_flip_share=0.2, overrides={"responses": "chosen"}).state == "waiting"
