"""What a user can do with sweeps."""

import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from app.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, RecipeInvalid
from app.domain.events import OutcomeReached
from app.domain.run import Outcome
from app.domain.sweep import SweepState, parse_request
from app.services import attempts, runs, scorings, sharing
from app.services import sweeps as services
from app.store import sweeps
from app.store.database import Database, now
from app.store.files.files import Files
from app.store.tables import Model, Run, Sweep
from tests.conftest import Library, make_library
from tests.scored import make_facts

GRID: dict[str, Any] = {"lambda": [0.1, 0.3], "baselines": ["dpo"]}


def launch(database: Database, library: Library, key: str | None = None, **parts: Any) -> str:
    base = {"dataset": library.dataset.id, "policy": {"model": library.policy.id}, "weights": {"lambda": 0.5}}
    request = parse_request({"recipe": {**base, **parts.pop("recipe", {})}, **(parts or GRID)})
    with database.writing() as session:
        return services.launch(session, library.user.id, request, idempotency_key=key).id


def runs_of(database: Database, sweep_id: str) -> dict[int, Run]:
    with database.reading() as session:
        return sweeps.list_runs(session, sweep_id)


def state(database: Database, library: Library, sweep_id: str) -> SweepState:
    with database.reading() as session:
        return sweeps.describe_sweep(session, library.user.id, sweeps.get_sweep(session, library.user.id, sweep_id)).state


def act(database: Database, verb: Any, library: Library, sweep_id: str, **arguments: Any) -> None:
    with database.writing() as session:
        verb(session, library.user.id, sweep_id, **arguments)


def end(database: Database, outcome: Outcome) -> str:
    """Claim the run that is next in line and end it."""
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
        assert claim is not None
        attempts.finish(session, claim.run_id, claim.token, OutcomeReached(outcome=outcome, retry=False))
    return claim.run_id


def test_a_sweep_queues_a_run_for_every_variant_in_order(either_database: Database) -> None:
    library = make_library(either_database)
    sweep_id = launch(either_database, library)
    found = runs_of(either_database, sweep_id)
    assert [run.name for run in found.values()] == [
        "Pairs · Small policy · λ 0.1", "Pairs · Small policy · λ 0.3", "Pairs · Small policy · DPO",
    ]  # fmt: skip
    assert {(run.state, run.sweep_id, run.kind) for run in found.values()} == {("queued", sweep_id, "training")}
    assert [run.variant for run in found.values()] == [0, 1, 2]
    assert {run.recipe["scoring"]["smallest_lambda"] for run in list(found.values())[:2]} == {0.1}
    assert end(either_database, Outcome.SUCCEEDED) == found[0].id
    assert state(either_database, library, sweep_id) == "running"
    with either_database.reading() as session:
        (row,) = sweeps.list_sweeps(session, library.user.id)
        assert (row.num_variants, row.counts, row.num_deleted) == (3, {"succeeded": 1, "queued": 2}, 0)
        assert sweeps.list_sweeps(session, library.user.id, after=row.id) == []


def test_nothing_is_queued_when_one_variant_is_at_fault(database: Database, library: Library) -> None:
    with pytest.raises(RecipeInvalid, match="no model 'model_x'") as error:
        launch(database, library, fields={"policy.model": [library.policy.id, "model_x"]}, name="Two policies")
    (problem,) = error.value.problems
    assert (problem["field"], problem["variant"]) == ("policy.model", "model model_x")
    with pytest.raises(RecipeInvalid) as error:
        launch(database, library, recipe={"dataset": "data_x"}, **GRID)
    assert error.value.problems == [{"field": "dataset", "message": "There is no data set 'data_x': choose one from your list."}]
    with database.reading() as session:
        assert sweeps.list_sweeps(session, library.user.id) == []
        assert session.query(Run).count() == 0


def test_one_key_and_many_launches_at_once_make_one_sweep(either_database: Database) -> None:
    library = make_library(either_database)
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(launch(either_database, library, key="once"))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 12
    assert len(set(made)) == 1
    assert len(runs_of(either_database, made[0])) == 3
    with pytest.raises(InvalidInput, match=made[0]):
        launch(either_database, library, key="once", **{"lambda": [0.2]})
    with pytest.raises(InvalidInput, match="printable"):
        launch(either_database, library, key="a\nb")


def test_a_stopped_sweep_resumes_what_is_missing_and_keeps_what_succeeded(database: Database, library: Library) -> None:
    sweep_id = launch(database, library)
    done = end(database, Outcome.SUCCEEDED)
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
    assert claim is not None
    act(database, services.stop, library, sweep_id)
    assert [run.state for run in runs_of(database, sweep_id).values()] == ["succeeded", "running", "cancelled"]
    with pytest.raises(Conflict, match="Not all runs have stopped yet"):
        act(database, services.resume, library, sweep_id)
    with database.writing() as session:
        attempts.finish(session, claim.run_id, claim.token, OutcomeReached(outcome=Outcome.CANCELLED))
    assert state(database, library, sweep_id) is SweepState.STOPPED
    with pytest.raises(Conflict, match="nothing to stop"):
        act(database, services.stop, library, sweep_id)
    act(database, services.resume, library, sweep_id)
    found = runs_of(database, sweep_id)
    assert [run.state for run in found.values()] == ["succeeded", "queued", "queued"]
    assert (found[0].id, found[1].id) == (done, claim.run_id)
    for _ in range(2):
        end(database, Outcome.SUCCEEDED)
    assert state(database, library, sweep_id) is SweepState.SUCCEEDED
    with pytest.raises(Conflict, match="Nothing is missing"):
        act(database, services.resume, library, sweep_id)


def test_a_deleted_run_is_noticed_and_made_anew(database: Database, library: Library, files: Files) -> None:
    sweep_id = launch(database, library)
    for _ in range(3):
        end(database, Outcome.SUCCEEDED)
    before = runs_of(database, sweep_id)
    with database.writing() as session:
        runs.delete(session, files, library.user.id, before[1].id)
    assert state(database, library, sweep_id) is SweepState.INCOMPLETE
    act(database, services.resume, library, sweep_id)
    after = runs_of(database, sweep_id)
    assert (after[0].id, after[2].id) == (before[0].id, before[2].id)
    assert (after[1].state, after[1].recipe) == ("queued", before[1].recipe)
    assert after[1].id != before[1].id


def test_variants_are_added_to_the_grid_and_known_ones_left_out(database: Database, library: Library) -> None:
    sweep_id = launch(database, library, **{"lambda": [0.1, 0.3], "fields": {"training.batch_size": [2, 8]}, "name": "Grid"})
    act(database, services.add_variants, library, sweep_id, lambdas=[0.3, 1.0], baselines=["dpo"])
    found = runs_of(database, sweep_id)
    assert [run.name.removeprefix("Grid · ") for run in found.values()][4:] == ["λ 1, batch_size 2", "λ 1, batch_size 8", "DPO"]
    with pytest.raises(Conflict, match="in the sweep already"):
        act(database, services.add_variants, library, sweep_id, baselines=["dpo"])
    with pytest.raises(RecipeInvalid, match="greater than 0"):
        act(database, services.add_variants, library, sweep_id, lambdas=[0.0])
    act(database, services.add_variants, library, sweep_id, fields={"noise.label_flip_share": [0, 0.2]})
    assert len(runs_of(database, sweep_id)) == 7 + 2  # λ 0.1 and 0.3 with B 8, the recipe's own, are there without noise


def test_a_sweep_is_deleted_with_its_runs_once_none_goes_on(database: Database, library: Library, files: Files) -> None:
    sweep_id = launch(database, library)
    with pytest.raises(Conflict, match="3 of the sweep's runs haven't ended"):
        act_delete(database, library, files, sweep_id)
    act(database, services.stop, library, sweep_id)
    run_id = runs_of(database, sweep_id)[0].id
    folder = files.artifacts_dir(run_id) / "model"
    folder.mkdir(parents=True)
    with database.writing() as session:
        session.add(
            Model(
                id="model_made", owner_id=library.user.id, name="Made", kind="policy", source="run", path=str(folder),
                revision=None, facts={}, created_at=now(session),
            )
        )  # fmt: skip
    with pytest.raises(Conflict, match="“Made” is a result of run"):
        act_delete(database, library, files, sweep_id)
    assert len(runs_of(database, sweep_id)) == 3
    with database.writing() as session:
        session.delete(session.get(Model, "model_made"))
    act_delete(database, library, files, sweep_id)
    assert runs_of(database, sweep_id) == {}
    assert not folder.exists()
    with database.reading() as session, pytest.raises(NotFound):
        sweeps.get_sweep(session, library.user.id, sweep_id)


def act_delete(database: Database, library: Library, files: Files, sweep_id: str) -> None:
    with database.writing() as session:
        services.delete(session, files, library.user.id, sweep_id)


@pytest.mark.parametrize("private", [False, True])
def test_somebody_elses_sweep_is_not_changed(database: Database, library: Library, files: Files, private: bool) -> None:
    sweep_id, refusal = launch(database, library), NotFound if private else Forbidden
    with database.writing() as session:
        sharing.set_private(session, session.get_one(Sweep, sweep_id), private)
    for verb in (services.stop, services.resume, services.add_variants):
        with database.writing() as session, pytest.raises(refusal):
            verb(session, "user_eve", sweep_id)
    with database.writing() as session, pytest.raises(refusal):
        services.delete(session, files, "user_eve", sweep_id)
    with database.reading() as session:
        assert [row.id for row in sweeps.list_sweeps(session, "user_eve")] == ([] if private else [sweep_id])
        assert all(run.private is private for run in sweeps.list_runs(session, sweep_id).values())


def test_a_shared_scoring_is_named_after_what_is_scored_and_not_after_one_variant(database: Database, library: Library) -> None:
    launch(database, library, name="Grid", **{"lambda": [0.1, 0.3]})
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
        assert claim is not None
        scoring = scorings.keep(session, claim.run_id, make_facts())
        assert scoring is not None
        assert scoring.name == "Pairs · Small policy"


def test_all_variants_write_the_day_of_the_sweep(database: Database, library: Library) -> None:
    with database.writing() as session:
        policy = session.get(Model, library.policy.id)
        assert policy is not None
        policy.facts = {**policy.facts, "writes_date": True}
    sweep_id = launch(database, library)
    yesterday = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    with database.writing() as session:
        sweeps.get_sweep(session, library.user.id, sweep_id).created_at = yesterday
    act(database, services.add_variants, library, sweep_id, lambdas=[0.9])
    days = [run.recipe["tokens"]["template_date"] for run in runs_of(database, sweep_id).values()]
    assert days[-1] == "2026-01-02"
    assert len(set(days[:-1])) == 1
