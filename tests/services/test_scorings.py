"""Scorings: asked for once, kept by the runs that make them, deleted when unused."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, NotFound, RecipeInvalid
from app.domain.events import OutcomeReached, ScoringKept, SpoolLine
from app.domain.run import Outcome, RunKind
from app.domain.scoring import ScoringFacts
from app.services import attempts, datasets, models, recordings, runs, scorings
from app.services.recipes import describe_recipe
from app.store import journal
from app.store import runs as run_store
from app.store import scorings as store
from app.store.database import Database, now
from app.store.files.files import Files
from app.store.tables import Model, Run, Scoring, User
from tests.conftest import Library, make_library
from tests.scored import make_check, make_facts, make_part

AT = "2026-01-31T12:00:00.000000Z"


@pytest.fixture
def either_library(either_database: Database) -> Library:
    return make_library(either_database)


def ask(database: Database, library: Library, **changes: Any) -> Scoring:
    with database.writing() as session:
        return scorings.request(session, library.user.id, library.recipe(**changes))


def work(database: Database, facts: ScoringFacts, outcome: Outcome = Outcome.SUCCEEDED, reason: str = "") -> str:
    """A worker takes the next run, tells what its scores are, and ends."""
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
        assert claim is not None
        attempts.open_spool(session, claim)
        lines = [SpoolLine(n=1, at=AT, kind="scoring", payload=journal.to_payload(ScoringKept(scoring=facts)))]
        if outcome is Outcome.SUCCEEDED:
            recordings.record(session, claim.run_id, claim.token, lines)
        attempts.finish(session, claim.run_id, claim.token, OutcomeReached(outcome=outcome, reason=reason, retry=False))
    return claim.run_id


def read(database: Database, scoring_id: str) -> tuple[Scoring, scorings.ScoringState]:
    with database.reading() as session:
        scoring = store.get_scoring(session, "user_ada", scoring_id)
        return scoring, scorings.standing_of(scoring, session.get(Run, scoring.run_id) if scoring.run_id else None)


def facts_of(database: Database, scoring_id: str) -> ScoringFacts:
    return ScoringFacts.model_validate(read(database, scoring_id)[0].facts)


def test_a_scoring_is_queued_once_however_often_it_is_asked_for(either_database: Database, either_library: Library) -> None:
    first = ask(either_database, either_library)
    again = ask(either_database, either_library, weights={"preset": "paper", "lambda": 3.0})
    assert (again.id, again.run_id) == (first.id, first.run_id)
    with either_database.reading() as session:
        queued = run_store.list_runs(session, "user_ada", kind=RunKind.SCORING)
    assert [(run.id, run.kind, run.scoring_id) for run in queued] == [(first.run_id, "scoring", first.id)]


def test_another_batch_size_is_another_scoring(database: Database, library: Library) -> None:
    assert ask(database, library).id != ask(database, library, training={"batch_size": 4}).id


def test_files_that_changed_under_a_name_are_another_scoring(database: Database, library: Library) -> None:
    first = ask(database, library)
    with database.writing() as session:
        session.get_one(type(library.policy), library.policy.id).facts = {"sha256": "f" * 64}
    assert ask(database, library).id != first.id


def test_the_worker_is_told_that_it_scores(database: Database, files: Files, library: Library) -> None:
    ask(database, library)
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
        assert claim is not None
        spec = attempts.build_spec(session, files, database.settings, claim, "cpu")
    assert spec.kind is RunKind.SCORING


def test_runs_that_score_stand_in_no_list_of_runs(database: Database, library: Library) -> None:
    ask(database, library)
    with database.writing() as session:
        training = runs.launch(session, library.user.id, library.recipe())
        assert [run.id for run in run_store.list_runs(session, "user_ada")] == [training.id]
        assert len(run_store.list_runs(session, "user_ada", kind=None)) == 2


def test_a_scoring_is_ready_once_its_run_told_what_it_holds(either_database: Database, either_library: Library) -> None:
    scoring = ask(either_database, either_library)
    assert read(either_database, scoring.id)[1].state == "queued"
    work(either_database, make_facts())
    assert read(either_database, scoring.id)[1].state == "ready"
    assert facts_of(either_database, scoring.id) == make_facts()
    ask(either_database, either_library)
    with either_database.reading() as session:
        assert len(run_store.list_runs(session, "user_ada", kind=None)) == 1


def test_a_scoring_whose_run_failed_says_why_and_is_queued_again_when_asked_for(database: Database, library: Library) -> None:
    scoring = ask(database, library)
    work(database, make_facts(), Outcome.FAILED, "The policy overflows.")
    assert read(database, scoring.id)[1] == scorings.ScoringState("failed", "The policy overflows.", "Ask for the scoring again.")
    assert ask(database, library).run_id == scoring.run_id
    assert read(database, scoring.id)[1].state == "queued"


def test_a_failed_scoring_asked_for_with_other_means_gets_another_run(database: Database, library: Library) -> None:
    scoring = ask(database, library)
    work(database, make_facts(), Outcome.FAILED, "Out of memory.")
    again = ask(database, library, scoring={"backend": "naive"})
    assert again.id == scoring.id
    assert again.run_id != scoring.run_id


def test_a_scoring_whose_run_was_deleted_can_be_asked_for_again(database: Database, files: Files, library: Library) -> None:
    scoring = ask(database, library)
    with database.writing() as session:
        runs.request_cancel(session, "user_ada", str(scoring.run_id))
        assert read(database, scoring.id)[1].state == "queued"  # not committed yet
        runs.delete(session, files, "user_ada", str(scoring.run_id))
    assert read(database, scoring.id)[1].reason == "The run that was to make it was deleted."
    ask(database, library)
    assert read(database, scoring.id)[1].state == "queued"


def test_a_training_run_keeps_its_scores_as_a_scoring(either_database: Database, either_library: Library) -> None:
    with either_database.writing() as session:
        run = runs.launch(session, either_library.user.id, either_library.recipe())
    work(either_database, make_facts())
    with either_database.reading() as session:
        found = scorings.find_for(session, "user_ada", either_library.recipe())
        assert found is not None
        assert session.get_one(Run, run.id).scoring_id == found.id
        assert store.count_users(session, [found.id]) == {found.id: 1}
        assert store.describe_scorings(session, [found])[0].num_runs == 1
    assert read(either_database, found.id)[1].state == "ready"


def test_a_later_run_is_tied_to_the_scoring_from_its_launch(database: Database, library: Library) -> None:
    scoring = ask(database, library)
    with database.writing() as session:
        assert runs.launch(session, library.user.id, library.recipe()).scoring_id == scoring.id


def test_news_of_a_hit_leave_how_the_scores_were_made(database: Database, library: Library) -> None:
    scoring = ask(database, library)
    work(database, make_facts())
    with database.writing() as session:
        runs.launch(session, library.user.id, library.recipe())
    work(database, make_facts(logprob=make_part("logprob-aaaa", hit=True, backend="", seconds=0.0)))
    assert facts_of(database, scoring.id).logprob.seconds == 12.5


def test_fewer_pairs_never_replace_all_of_them(database: Database, library: Library) -> None:
    scoring = ask(database, library)
    work(database, make_facts())
    with database.writing() as session:
        runs.launch(session, library.user.id, library.recipe())
    work(database, make_facts(logprob=make_part("logprob-bbbb", smallest_lambda=0.3, num_scored=700)))
    assert facts_of(database, scoring.id).logprob.key == "logprob-aaaa"


def test_a_method_that_asks_no_reward_model_takes_no_rewards_away(database: Database, library: Library) -> None:
    model = {"source": "model", "model": library.reward.id}
    scoring = ask(database, library, reward=model)
    work(database, make_facts(reward=make_part("reward-aaaa")))
    with database.writing() as session:
        run = runs.launch(session, library.user.id, library.recipe(reward=model, method="dpo"))
    work(database, make_facts(check=make_check(num_pairs=0, accuracy=None)))
    assert facts_of(database, scoring.id).reward is not None
    with database.reading() as session:
        assert session.get_one(Run, run.id).scoring_id == scoring.id


def test_log_probabilities_alone_are_no_scoring_of_a_reward_model(database: Database, library: Library) -> None:
    recipe = library.recipe(reward={"source": "model", "model": library.reward.id}, method="dpo")
    with database.writing() as session:
        runs.launch(session, library.user.id, recipe)
    work(database, make_facts())
    with database.reading() as session:
        assert scorings.find_for(session, library.user.id, recipe) is None


def test_asking_for_a_scoring_that_stopped_early_scores_the_rest(database: Database, library: Library) -> None:
    with database.writing() as session:
        runs.launch(session, library.user.id, library.recipe())
    work(database, make_facts(logprob=make_part("logprob-bbbb", smallest_lambda=0.3, num_scored=700)))
    scoring = ask(database, library)
    assert scoring.run_id is not None
    assert read(database, scoring.id)[1].state == "ready"
    work(database, make_facts())
    assert facts_of(database, scoring.id).logprob.key == "logprob-aaaa"


def test_a_recipe_that_does_not_fit_is_refused_with_its_fields(database: Database, library: Library) -> None:
    with pytest.raises(RecipeInvalid) as caught:
        ask(database, library, dataset="data_none", reward={"source": "model", "model": "model_none"})
    assert [problem["field"] for problem in caught.value.problems] == ["dataset", "reward.model"]


def test_anothers_scoring_serves_once_it_is_whole_and_only_who_may_see_its_parts(database: Database, library: Library) -> None:
    scoring = ask(database, library)
    with database.reading() as session:
        assert scorings.find_for(session, "user_eve", library.recipe()) is None  # of one that is being made nobody else waits
    work(database, make_facts())
    with database.writing() as session:
        session.add(User(id="user_eve", name="Eve", role="member", created_at=now(session)))
        session.flush()
        assert scorings.request(session, "user_eve", library.recipe()).id == scoring.id
        assert runs.launch(session, "user_eve", library.recipe()).scoring_id == scoring.id
    with database.writing() as session:
        session.get_one(Model, library.policy.id).private = True
    with database.reading() as session:
        assert scorings.find_for(session, "user_eve", library.recipe()) is None
        with pytest.raises(NotFound, match=scoring.id):
            store.get_scoring(session, "user_eve", scoring.id)


def test_a_scoring_that_another_users_run_waits_for_is_kept(database: Database, library: Library, files: Files) -> None:
    scoring = ask(database, library)
    work(database, make_facts())
    with database.writing() as session:
        session.add(User(id="user_eve", name="Eve", role="member", created_at=now(session)))
        session.flush()
        runs.launch(session, "user_eve", library.recipe(), private=True)
    with database.writing() as session:
        session.get_one(User, "user_ada").role = "member"
    with database.writing() as session, pytest.raises(Conflict, match="by the queued run of another: cancel") as caught:
        scorings.delete(session, files, "user_ada", scoring.id)
    assert (caught.value.extra["used_by"], caught.value.extra["num_used_by"]) == ([], 1)
    assert "Eve's" in caught.value.detail


def test_the_recipe_of_a_scoring_leads_back_to_it(database: Database, library: Library) -> None:
    scoring = ask(database, library, policy={"model": library.policy.id, "adaptation": "lora", "quantization": "nf4"})
    with database.reading() as session:
        found = scorings.find_for(session, "user_ada", scorings.recipe_of(scoring))
    assert found is not None
    assert found.id == scoring.id


def test_a_scoring_for_a_method_that_makes_no_draws_does_not_stand_in_for_one_with_draws(database: Database, library: Library):
    parts = {"reward": {"source": "model", "model": library.reward.id}, "weights": {"preset": "draws", "lambda": 1}}
    with pytest.raises(RecipeInvalid, match="dpo makes no weights, so draws of the reference would not be made") as error:
        ask(database, library, method="dpo", **parts)
    assert [problem["field"] for problem in error.value.problems] == ["weights.partition_scope"]


def test_a_scoring_with_draws_is_another_one_and_its_recipe_leads_back_to_it(database: Database, library: Library) -> None:
    plain = ask(database, library, reward={"source": "model", "model": library.reward.id})
    drawn = ask(
        database, library, reward={"source": "model", "model": library.reward.id}, weights={"preset": "draws", "lambda": 1},
        draws={"num_draws": 4},
    )  # fmt: skip
    assert plain.id != drawn.id
    assert scorings.recipe_of(drawn).draws.num_draws == 4
    with database.reading() as session:
        found = scorings.find_for(session, "user_ada", scorings.recipe_of(drawn))
    assert found is not None
    assert found.id == drawn.id


def add_rewards(database: Database, library: Library, *digests: str) -> list[str]:
    """Further reward models with these weights; their ids."""
    with database.writing() as session:
        rows = [
            Model(
                id=f"model_seed_{number}", owner_id=library.user.id, name=f"Seed {number}", kind="reward", source="hub",
                path=f"small/seed-{number}", revision="main", facts={"sha256": digest}, created_at=now(session),
            )
            for number, digest in enumerate(digests)
        ]  # fmt: skip
        session.add_all(rows)
        return [row.id for row in rows]


def test_further_reward_models_make_another_scoring_and_are_held_by_it(
    database: Database, files: Files, library: Library
) -> None:
    second, third = add_rewards(database, library, "a" * 64, "b" * 64)
    reward = {"source": "model", "model": library.reward.id}
    asked: list[dict[str, Any]] = [
        {}, {"second": second}, {"second": second, "caution": 0.5}, {"second": third}, {"second": second, "third": third},
    ]  # fmt: skip
    made = [ask(database, library, reward={**reward, **changes}) for changes in asked]
    assert len({one.id for one in made}) == len(asked)
    with database.reading() as session:
        found = scorings.find_for(session, "user_ada", scorings.recipe_of(made[-1]))
        claim_recipe = library.recipe(reward={**reward, "second": second, "third": third})
        spec = describe_recipe(session, files, claim_recipe)
        assert found is not None
        assert store.describe_scorings(session, [found])[0].reward == f"{library.reward.name} and Seed 0 and Seed 1"
    assert found.id == made[-1].id
    assert [source.path for source in spec["further"]] == ["small/seed-0", "small/seed-1"]
    with database.writing() as session:
        session.get_one(Model, third).facts = {"sha256": "c" * 64}
    assert ask(database, library, reward={**reward, **asked[-1]}).id != made[-1].id
    with database.writing() as session, pytest.raises(Conflict, match="this model"):
        models.delete(session, files, library.user.id, third)


def test_a_reward_model_under_two_names_is_no_second_opinion(database: Database, library: Library) -> None:
    second, third = add_rewards(database, library, "a" * 64, "a" * 64)  # the files' shapes are alike, as those of seeds are
    reward = {"source": "model", "model": library.reward.id, "second": second, "third": third}
    assert ask(database, library, reward=reward).id
    with pytest.raises(RecipeInvalid, match="no model 'model_gone'"):
        ask(database, library, reward={**reward, "third": "model_gone"})
    with database.writing() as session:
        session.get_one(Model, third).path = "small/seed-0"
    with pytest.raises(RecipeInvalid, match="“Seed 1” is the model “Seed 0”, so the two agree") as refused:
        ask(database, library, reward=reward)
    assert [problem["field"] for problem in refused.value.problems] == ["reward.third"]
    with database.writing() as session:
        for model_id in (second, third):
            session.get_one(Model, model_id).facts = {"run_id": "run_one"}
        session.get_one(Model, third).path = "models/copy"
    with pytest.raises(RecipeInvalid, match="so the two agree"):
        ask(database, library, reward=reward)


INVERTED = make_check(accuracy=0.2, low=0.06, high=0.45, inverted=True)


def test_a_launch_with_rewards_known_as_inverted_needs_a_word(database: Database, library: Library) -> None:
    ask(database, library)
    work(database, make_facts(check=INVERTED))
    with database.writing() as session:
        with pytest.raises(RecipeInvalid, match=r"only 20 % of 9 pairs \(95 % interval 6 % to 45 %\)") as caught:
            runs.launch(session, library.user.id, library.recipe())
        assert [problem["field"] for problem in caught.value.problems] == ["reward.accept_inverted"]
        assert "set reward.accept_inverted to true" in caught.value.detail
        runs.launch(session, library.user.id, library.recipe(reward={"accept_inverted": True}))
        runs.launch(session, library.user.id, library.recipe(method="sft", weights={"responses": "chosen"}))


def test_a_scoring_is_not_deleted_while_a_run_makes_or_uses_it(database: Database, files: Files, library: Library) -> None:
    scoring = ask(database, library)
    with database.writing() as session, pytest.raises(Conflict, match=f"is being made by run {scoring.run_id}"):
        scorings.delete(session, files, "user_ada", scoring.id)
    work(database, make_facts())
    with database.writing() as session:
        run = runs.launch(session, library.user.id, library.recipe())
    with database.writing() as session, pytest.raises(Conflict, match=run.id):
        scorings.delete(session, files, "user_ada", scoring.id)


def test_a_run_that_was_launched_before_the_scoring_was_asked_for_holds_it_too(
    database: Database, files: Files, library: Library
) -> None:
    with database.writing() as session:
        run = runs.launch(session, library.user.id, library.recipe())
    scoring = ask(database, library)
    with database.writing() as session:
        runs.request_cancel(session, "user_ada", str(scoring.run_id))
    with database.writing() as session, pytest.raises(Conflict, match=run.id):
        scorings.delete(session, files, "user_ada", scoring.id)


def make_artifacts(files: Files, *keys: str) -> None:
    for key in keys:
        files.scoring_dir(key).mkdir(parents=True)
        (files.scoring_dir(key) / "manifest.json").write_text("{}")


def left(files: Files) -> list[str]:
    return sorted(path.name for path in files.scorings_dir.iterdir())


def test_a_deleted_scoring_takes_its_run_and_its_artifacts_along(
    either_database: Database, files: Files, either_library: Library
) -> None:
    scoring = ask(either_database, either_library)
    work(either_database, make_facts())
    make_artifacts(files, "index-aaaa", "logprob-aaaa", "logprob-zzzz")
    with either_database.writing() as session:
        scorings.delete(session, files, "user_ada", scoring.id)
    with either_database.reading() as session:
        assert session.get(Scoring, scoring.id) is None
        assert session.get(Run, str(scoring.run_id)) is None
    assert left(files) == ["logprob-zzzz"]


def test_artifacts_that_another_scoring_names_stay(either_database: Database, files: Files, either_library: Library) -> None:
    scoring = ask(either_database, either_library)
    work(either_database, make_facts())
    ask(either_database, either_library, max_examples=10)  # the same ten examples, asked for in another way
    work(either_database, make_facts(reward=make_part("reward-bbbb")))
    make_artifacts(files, "index-aaaa", "logprob-aaaa", "reward-bbbb")
    with either_database.writing() as session:
        scorings.delete(session, files, "user_ada", scoring.id)
    assert left(files) == ["index-aaaa", "logprob-aaaa", "reward-bbbb"]


def test_a_scoring_that_an_ended_run_used_is_deleted_only_when_asked_to_anyway(
    database: Database, files: Files, library: Library
) -> None:
    with database.writing() as session:
        run = runs.launch(session, library.user.id, library.recipe())
    work(database, make_facts())
    scoring = ask(database, library)
    with database.writing() as session, pytest.raises(Conflict, match=r"was used by 1 run: delete it first, or"):
        scorings.delete(session, files, "user_ada", scoring.id)
    with database.writing() as session:
        scorings.delete(session, files, "user_ada", scoring.id, anyway=True)
        assert session.get_one(Run, run.id, populate_existing=True).scoring_id is None


def test_a_run_that_goes_on_holds_its_scoring_whatever_is_asked(database: Database, files: Files, library: Library) -> None:
    scoring = ask(database, library)
    work(database, make_facts())
    with database.writing() as session:
        run = runs.launch(session, library.user.id, library.recipe())
    with database.writing() as session, pytest.raises(Conflict, match=run.id):
        scorings.delete(session, files, "user_ada", scoring.id, anyway=True)


def test_artifacts_that_better_ones_replaced_go_too(database: Database, files: Files, library: Library) -> None:
    with database.writing() as session:
        run = runs.launch(session, library.user.id, library.recipe())
    work(database, make_facts(logprob=make_part("logprob-bbbb", smallest_lambda=0.3)))
    scoring = ask(database, library)
    work(database, make_facts())
    make_artifacts(files, "index-aaaa", "logprob-aaaa", "logprob-bbbb")
    with database.writing() as session:
        scorings.delete(session, files, "user_ada", scoring.id, anyway=True)
        assert session.get_one(Run, run.id, populate_existing=True).scoring_id is None
    assert left(files) == []


def test_data_and_models_of_a_scoring_stay_as_long_as_it_does(database: Database, files: Files, library: Library) -> None:
    ask(database, library)
    work(database, make_facts())

    def refuse(session: Session) -> None:
        with pytest.raises(Conflict, match="The scoring “Pairs · Small policy” uses this data set"):
            datasets.delete(session, files, "user_ada", library.dataset.id)
        with pytest.raises(Conflict, match="The scoring “Pairs · Small policy” uses this model"):
            models.delete(session, files, "user_ada", library.policy.id)

    with database.writing() as session:
        refuse(session)


def test_the_run_of_a_scoring_is_not_cloned(database: Database, library: Library) -> None:
    scoring = ask(database, library)
    with database.writing() as session, pytest.raises(Conflict, match="ask for the scoring again"):
        runs.clone(session, "user_ada", str(scoring.run_id))
