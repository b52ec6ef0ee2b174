"""What workers do with runs: one owner at a time, on both databases."""

import threading
from datetime import timedelta

import pytest

from app.domain.errors import RecipeInvalid, StaleToken
from app.domain.events import OutcomeReached
from app.domain.run import Outcome, RunKind
from app.domain.scoring import scoring_settings
from app.services import attempts
from app.services import runs as services
from app.services.attempts import Claim
from app.settings import Settings
from app.store import journal, runs, workers
from app.store.database import Database, now
from app.store.files.files import Files
from app.store.tables import Model, Run, Worker
from tests.conftest import Library, make_library

STOPPED = OutcomeReached(outcome=Outcome.INTERRUPTED, reason="The worker was stopped.")
SUCCESS = OutcomeReached(outcome=Outcome.SUCCEEDED, summary={"loss": 0.5})


def launch(database: Database, library: Library, num_runs: int = 1) -> list[str]:
    with database.writing() as session:
        return [services.launch(session, library.user.id, library.recipe()).id for _ in range(num_runs)]


def begin(database: Database, worker: str = "worker", lease_seconds: float = 30) -> Claim | None:
    with database.writing() as session:
        return attempts.begin(session, worker, lease_seconds)


def begin_one(database: Database, lease_seconds: float = 30) -> Claim:
    claim = begin(database, lease_seconds=lease_seconds)
    assert claim is not None
    return claim


def fetch(database: Database, run_id: str) -> Run:
    with database.reading() as session:
        run = session.get(Run, run_id)
        assert run is not None
        return run


def read_states(database: Database, run_id: str) -> list[str]:
    with database.reading() as session:
        return [entry.payload["state"] for entry in journal.read(session, run_id, kinds=["state"])]


def expire(database: Database, run_id: str) -> None:
    with database.writing() as session:
        runs.lock_run(session, run_id).lease_expires_at = now(session) - timedelta(seconds=1)


@pytest.mark.long
def test_eight_workers_begin_forty_runs_once_each(either_database: Database) -> None:
    run_ids = launch(either_database, make_library(either_database), 40)
    claimed: list[Claim] = []

    def work(name: str) -> None:
        while True:
            claim = begin(either_database, name)
            if claim is not None:
                claimed.append(claim)
            else:
                with either_database.reading() as session:  # another worker may hold the last one's lock for a moment
                    if not runs.count_runs(session, "user_ada").get("queued"):
                        return

    threads = [threading.Thread(target=work, args=[f"worker-{n}"]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claim.run_id for claim in claimed) == sorted(run_ids)
    assert {(claim.token, claim.attempt) for claim in claimed} == {(1, 1)}


def test_runs_begin_by_priority_then_by_waiting_time(either_database: Database) -> None:
    first, second, urgent = launch(either_database, make_library(either_database), 3)
    with either_database.writing() as session:
        runs.lock_run(session, urgent).priority = 5
    assert [begin_one(either_database).run_id for _ in range(3)] == [urgent, first, second]
    assert begin(either_database) is None


def launch_wide(database: Database, library: Library, num_processes: int) -> str:
    with database.writing() as session:
        recipe = library.recipe(training={"num_processes": num_processes, "batch_size": 64})
        return services.launch(session, library.user.id, recipe).id


def test_a_wide_run_waits_at_the_head_of_the_line_until_it_fits(either_database: Database) -> None:
    library = make_library(either_database)
    first, second = launch(either_database, library, 2)
    wide = launch_wide(either_database, library, 3)
    last = launch(either_database, library)[0]

    def begin_with(num_free: int, num_places: int = 4) -> str | None:
        with either_database.writing() as session:
            claim = attempts.begin(session, "worker", 30, num_free=num_free, num_places=num_places)
        return claim.run_id if claim else None

    assert begin_with(4) == first
    assert begin_with(3) == second
    assert begin_with(2) is None  # the wide one is next, and nothing overtakes it here
    assert begin_with(1, num_places=1) == last  # a worker too small for it goes on
    assert begin_with(4) == wide
    assert begin_with(4) is None


def test_a_wide_run_names_its_processes_in_the_claim_and_the_spec(
    database: Database, files: Files, settings: Settings, library: Library
) -> None:
    launch_wide(database, library, 3)
    claim = begin_one(database)
    assert claim.num_processes == 3
    with database.reading() as session:
        assert attempts.build_spec(session, files, settings, claim, "cpu").num_processes == 3


def test_a_scoring_needs_one_process_however_wide_its_recipe(database: Database, library: Library) -> None:
    run_id = launch_wide(database, library, 3)
    with database.writing() as session:
        runs.lock_run(session, run_id).kind = RunKind.SCORING
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30, num_free=1, num_places=1)
    assert claim is not None
    assert claim.num_processes == 1


def test_a_run_wider_than_every_known_worker_is_refused_at_launch(database: Database, library: Library) -> None:
    with database.writing() as session:
        attempts.beat(session, "small", hostname="a", devices=[], slots=1)
        gpus = [{"index": k, "name": "gpu", "memory_bytes": 1} for k in range(2)]
        attempts.beat(session, "large", hostname="b", devices=gpus, slots=8)
    launch_wide(database, library, 2)
    with pytest.raises(RecipeInvalid, match="wants 3 devices to train together, but no worker has more than 2") as caught:
        launch_wide(database, library, 3)
    assert caught.value.problems[0]["field"] == "training.num_processes"


def test_a_spec_holds_all_that_the_runner_needs(database: Database, files: Files, settings: Settings, library: Library) -> None:
    with database.writing() as session:
        recipe = library.recipe(
            reward={"source": "model", "model": "model_reward"}, policy={"model": "model_policy", "revision": "v2"}
        )
        services.launch(session, library.user.id, recipe)
    claim = begin_one(database)
    with database.reading() as session:
        spec = attempts.build_spec(session, files, settings, claim, "cpu", num_threads=2, supervisor_pid=7)
    assert (spec.recipe, spec.attempt, spec.device, spec.num_threads, spec.supervisor_pid) == (recipe, 1, "cpu", 2, 7)
    assert (spec.policy.source, spec.policy.path, spec.policy.revision) == ("hub", "small/policy", "v2")
    assert spec.reward is not None
    assert (spec.reward.path, spec.reward.revision, spec.judge) == ("small/reward", "main", None)
    assert spec.dataset_path == str(settings.root / "datasets" / "data_pairs" / "examples.parquet")
    assert spec.model_validate_json(spec.model_dump_json(by_alias=True)) == spec


def test_a_spec_of_a_deleted_model_is_refused(database: Database, files: Files, settings: Settings, library: Library) -> None:
    launch(database, library)
    claim = begin_one(database)
    with database.writing() as session:
        session.delete(library.reward)
        broken = Claim(claim.run_id, claim.token, claim.attempt, {**claim.recipe, "reward": {"judge": "model_reward"}})
        with pytest.raises(RecipeInvalid, match="was deleted"):
            attempts.build_spec(session, files, settings, broken, "cpu")


def test_renewing_holds_the_run_and_tells_of_a_cancel(either_database: Database) -> None:
    library = make_library(either_database)
    (run_id,) = launch(either_database, library)
    claim = begin_one(either_database, lease_seconds=1)
    before = fetch(either_database, run_id).lease_expires_at
    with either_database.writing() as session:
        assert attempts.renew(session, run_id, claim.token, 60) is False
        services.request_cancel(session, library.user.id, run_id)
        assert attempts.renew(session, run_id, claim.token, 60) is True
    after = fetch(either_database, run_id).lease_expires_at
    assert before is not None
    assert after is not None
    assert after - before > timedelta(seconds=50)


def test_a_success_is_final_and_carries_its_summary(either_database: Database) -> None:
    (run_id,) = launch(either_database, make_library(either_database))
    claim = begin_one(either_database)
    with either_database.writing() as session:
        assert attempts.finish(session, run_id, claim.token, SUCCESS) == "succeeded"
    run = fetch(either_database, run_id)
    assert (run.state, run.summary, run.progress, run.lease_expires_at) == ("succeeded", {"loss": 0.5}, 1.0, None)
    assert run.finished_at is not None
    assert read_states(either_database, run_id) == ["queued", "running", "succeeded"]


def test_a_stale_token_changes_nothing(either_database: Database) -> None:
    (run_id,) = launch(either_database, make_library(either_database))
    old = begin_one(either_database)
    expire(either_database, run_id)
    with either_database.writing() as session:
        assert attempts.reap(session) == [run_id]
    new = begin_one(either_database)
    before = fetch(either_database, run_id)
    for write in (
        lambda session: attempts.renew(session, run_id, old.token, 30),
        lambda session: attempts.finish(session, run_id, old.token, SUCCESS),
        lambda session: attempts.finish(session, run_id, old.token, STOPPED),
        lambda session: attempts.lose(session, run_id, old.token, "x"),
    ):
        with pytest.raises(StaleToken), either_database.writing() as session:
            write(session)
    after = fetch(either_database, run_id)
    assert (after.state, after.token, after.last_seq, after.lease_expires_at) == (
        "running", new.token, before.last_seq, before.lease_expires_at,
    )  # fmt: skip


def test_an_interrupted_run_waits_again_at_its_old_place_and_no_failure_is_counted(database: Database, library: Library) -> None:
    first, second = launch(database, library, 2)
    claim = begin_one(database)
    with database.writing() as session:
        assert attempts.finish(session, first, claim.token, STOPPED) == "queued"
    assert read_states(database, first) == ["queued", "running", "interrupted", "queued"]
    run = fetch(database, first)
    assert (run.num_failures, run.worker_id, run.lease_expires_at) == (0, None, None)
    assert [begin_one(database).run_id for _ in range(2)] == [first, second]
    with database.reading() as session:
        assert [(attempt.number, attempt.outcome) for attempt in runs.list_attempts(session, first)] == [
            (1, "interrupted"),
            (2, ""),
        ]


def test_a_run_that_is_lost_again_and_again_fails_with_the_logs_end(database: Database, library: Library) -> None:
    (run_id,) = launch(database, library)
    states = []
    for _ in range(3):
        claim = begin_one(database)
        with database.writing() as session:
            states.append(str(attempts.lose(session, run_id, claim.token, "It crashed.", remedy="Look.", log_tail="the end")))
    assert states == ["queued", "queued", "failed"]
    run = fetch(database, run_id)
    assert run.error == {"reason": "It crashed. (attempt 3 of 3)", "remedy": "Look.", "log_tail": "the end"}
    assert run.attempt == 3


def test_a_lost_run_that_was_to_be_cancelled_is_cancelled(database: Database, library: Library) -> None:
    (run_id,) = launch(database, library)
    claim = begin_one(database)
    with database.writing() as session:
        services.request_cancel(session, library.user.id, run_id)
    expire(database, run_id)
    with database.writing() as session:
        assert attempts.reap(session) == [run_id]
    assert fetch(database, run_id).state == "cancelled"
    with database.writing() as session, pytest.raises(StaleToken):
        attempts.finish(session, run_id, claim.token, SUCCESS)


@pytest.mark.long
def test_two_reapers_and_a_hundred_dead_runs_requeue_each_once(either_database: Database) -> None:
    run_ids = launch(either_database, make_library(either_database), 100)
    with either_database.writing() as session:
        assert all(attempts.begin(session, "dead", -1) for _ in run_ids)
    reaped: list[str] = []

    def reap() -> None:
        with either_database.writing() as session:
            reaped.extend(attempts.reap(session))

    threads = [threading.Thread(target=reap) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reaped) == sorted(run_ids)
    with either_database.reading() as session:
        assert {run.num_failures for run in runs.list_runs(session, "user_ada", state="queued", limit=200)} == {1}


def test_a_worker_does_not_reap_what_it_runs_itself(either_database: Database) -> None:
    mine, lost = launch(either_database, make_library(either_database), 2)
    with either_database.writing() as session:
        assert [claim.run_id for claim in (attempts.begin(session, "late", -1), attempts.begin(session, "dead", -1)) if claim]
        assert attempts.reap(session, spare=[mine]) == [lost]


def test_a_living_lease_is_not_reaped(either_database: Database) -> None:
    launch(either_database, make_library(either_database))
    begin_one(either_database)
    with either_database.writing() as session:
        assert attempts.reap(session) == []


def test_a_worker_is_noted_while_it_beats_and_forgotten_after_a_day(either_database: Database) -> None:
    gpus = [{"index": 0, "name": "GPU", "memory_bytes": 1}]
    with either_database.writing() as session:
        old = attempts.beat(session, "old", hostname="h", devices=[], slots=1)
        started = attempts.beat(session, "new", hostname="h", devices=gpus, slots=2)
        for worker in workers.list_workers(session):
            if worker.id == "old":
                worker.beat_at = old - timedelta(days=2)
    with either_database.writing() as session:
        assert attempts.beat(session, "new", hostname="h", devices=gpus, slots=2, started_at=started) == started
    with either_database.writing() as session:
        (worker,) = workers.list_workers(session)
        assert (worker.id, worker.devices, worker.slots) == ("new", gpus, 2)
        attempts.leave(session, "new")
    with either_database.reading() as session:
        assert workers.list_workers(session) == []


def test_a_worker_stays_paused_over_beats_and_when_it_comes_back_under_its_name(either_database: Database) -> None:
    running = [{"run_id": "run_a", "attempt": 1, "slots": [0], "pid": 7, "spool_lag_bytes": 12, "spool_lag_seconds": 0.5}]

    def beat() -> None:
        attempts.beat(session, "named", hostname="h", devices=[], slots=1, load={"running": running}, version="1.2")

    with either_database.writing() as session:
        beat()
        session.get_one(Worker, "named").paused_at = now(session)
        attempts.beat(session, "chance", hostname="h", devices=[], slots=1)
        session.get_one(Worker, "chance").paused_at = now(session)
    with either_database.writing() as session:
        beat()
        worker = session.get_one(Worker, "named")
        assert (worker.load, worker.version, worker.left_at) == ({"running": running}, "1.2", None)
        assert worker.paused_at is not None
        attempts.leave(session, "named", comes_back=True)
        attempts.leave(session, "chance")
        assert [(left.id, left.load) for left in workers.list_workers(session)] == [("named", {})]
    launch(either_database, make_library(either_database))
    with either_database.writing() as session:
        beat()
        assert attempts.begin(session, "named", 30) is None
        session.get_one(Worker, "named").paused_at = None
    assert begin(either_database, "named") is not None


def test_a_run_that_is_held_or_sent_elsewhere_is_passed_over(either_database: Database) -> None:
    held, elsewhere, not_here, last = launch(either_database, make_library(either_database), 4)
    with either_database.writing() as session:
        runs.lock_run(session, held).held_at = now(session)
        runs.lock_run(session, elsewhere).wanted_worker = "there"
        runs.lock_run(session, not_here).avoided_worker = "here"
    claims = [begin(either_database, worker) for worker in ("here", "here", "there", "there", "there")]
    assert [claim and claim.run_id for claim in claims] == [last, None, elsewhere, not_here, None]
    assert fetch(either_database, elsewhere).wanted_worker is None  # it has come true


@pytest.mark.parametrize(
    ("source", "facts", "path", "name"),
    [
        ("folder", {}, "/models/small", ""),
        ("run", {"run_id": "run_7"}, "/data/models/model_policy", "run_7/model"),
        ("hub", {}, "/models/small", ""),
    ],
)
def test_the_spec_says_what_the_world_outside_calls_the_policy(
    source: str, facts: dict[str, str], path: str, name: str,
    database: Database, files: Files, settings: Settings, library: Library,
) -> None:  # fmt: skip
    with database.writing() as session:
        model = session.get_one(Model, library.policy.id)
        model.source, model.facts, model.path = source, facts, path
    launch(database, library)
    claim = begin_one(database)
    with database.reading() as session:
        policy = attempts.build_spec(session, files, settings, claim, "cpu").policy
    assert (policy.path, policy.name) == (path, name)


def test_a_run_of_before_goes_on_as_it_began_and_finds_its_scoring(
    database: Database, files: Files, settings: Settings, library: Library
) -> None:
    with database.writing() as session:
        wanted = library.recipe(
            reward={"source": "model", "model": "model_reward"}, policy={"model": "model_policy", "dtype": "bfloat16"}
        )
        run = services.launch(session, library.user.id, wanted)
        stored = wanted.to_dict()
        del stored["evaluation"]["split"], stored["reward"]["dtype"]
        run.recipe = stored
    claim = begin_one(database)
    with database.reading() as session:
        recipe = attempts.build_spec(session, files, settings, claim, "cpu").recipe
    assert (recipe.evaluation.split, recipe.reward.dtype) == ("prompt", "bfloat16")
    before, now = scoring_settings(recipe), scoring_settings(wanted)
    assert set(before["evaluation"]) == {"share", "seed"}
    assert set(before["reward"]) == {"source", "model", "revision"}
    assert (now["evaluation"]["split"], now["reward"]["dtype"]) == ("conversation", "float32")
