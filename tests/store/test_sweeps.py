"""What is read of a sweep: its results and its frontier, in a fixed number of queries."""

import time
from datetime import timedelta

from sqlalchemy import event

from app.domain.events import FindingRaised, OutcomeReached
from app.domain.run import Outcome
from app.domain.sweep import parse_request
from app.services import attempts
from app.services import runs as run_services
from app.services import sweeps as services
from app.store import journal, metrics, results, sweeps
from app.store.database import Database
from app.store.files.files import Files
from app.store.results import EVALUATED, PER_STEP
from app.store.tables import Attempt, JournalEntry, Run, Sweep
from tests.conftest import Library, make_library
from tests.timing import Clock


def launch(database: Database, library: Library, num_variants: int) -> Sweep:
    base = {"dataset": library.dataset.id, "policy": {"model": library.policy.id}, "weights": {"lambda": 0.5}}
    seeds = {"training.seed": list(range(32)), "evaluation.seed": [0, 1]} if num_variants == 64 else {"training.seed": [0, 1]}
    with database.writing() as session:
        request = parse_request({"recipe": base, "fields": seeds})
        return services.launch(session, library.user.id, request)


def evaluate(database: Database, sweep: Sweep, num_evaluations: int, num_steps: int = 0) -> None:
    """Evaluations at every tenth step: the variant v is at KL 0.1·n and gains n·(v + 1) / 100 after its n-th."""
    with database.writing() as session:
        for variant, run in sweeps.list_runs(session, sweep.id).items():
            values: dict[tuple[str, int], float | None] = {}
            for n in range(num_evaluations):
                values |= {(key, 10 * n): 0.5 for key in EVALUATED}
                values |= {("eval/kl", 10 * n): 0.1 * n, ("eval/reward_gain", 10 * n): n * (variant + 1) / 100}
            for step in range(1, num_steps + 1):
                values |= {(key, step): float(step % 2) for key in PER_STEP}
            run.step = num_steps
            metrics.write_metrics(session, run.id, values)


def queries_of(database: Database) -> list[str]:
    """The statements that reach the database from now on."""
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    return statements


def test_the_results_of_64_runs_take_as_many_queries_as_those_of_two(database: Database, library: Library) -> None:
    counts = []
    for num_variants in (2, 64):
        sweep = launch(database, library, num_variants)
        evaluate(database, sweep, 3, num_steps=3)
        with database.reading() as session:
            known = sweeps.get_sweep(session, library.user.id, sweep.id)
            statements = queries_of(database)
            assert len(results.list_results(session, known)) == num_variants
            counts.append(len(statements))
            statements.clear()
            results.list_points(session, sweep.id)
            assert len(statements) == 2
    assert counts[0] == counts[1] <= 8


def test_the_frontier_of_64_runs_with_50_evaluations_is_read_in_50_ms(database: Database, library: Library, clock: Clock) -> None:
    sweep = launch(database, library, 64)
    evaluate(database, sweep, 50)
    seconds = []
    for _ in range(8):
        with database.reading() as session:
            began = time.process_time()  # other work on the machine doesn't count
            points = results.list_points(session, sweep.id)
            seconds.append(time.process_time() - began)
    assert len(points) == 64 * 50
    assert [(one.variant, one.step) for one in points[:2]] == [(0, 0), (0, 10)]
    assert (points[-1].kl, points[-1].gain) == (0.1 * 49, 49 * 64 / 100)
    clock.check(min(seconds), 0.05)


def test_the_table_shows_the_newest_evaluation_and_means_over_the_newest_steps(either_database: Database) -> None:
    library = make_library(either_database)
    sweep = launch(either_database, library, 2)
    evaluate(either_database, sweep, 4, num_steps=1000)
    with either_database.writing() as session:
        run = sweeps.list_runs(session, sweep.id)[1]
        late = {(key, step): 100.0 for key in PER_STEP for step in range(1, 951)}  # not among the newest 50
        metrics.write_metrics(session, run.id, {**late, ("eval/kl", 30): None})
        run.step = 1000
    with either_database.reading() as session:
        first, second = results.list_results(session, sweep)
        points = results.list_points(session, sweep.id)
    assert (first.label, first.changes) == ("seed 0", {"training.seed": 0})
    assert (first.metrics["eval/reward_gain"], second.metrics["eval/reward_gain"]) == (0.03, 0.06)
    assert second.metrics["eval/kl"] is None
    assert {second.metrics[key] for key in PER_STEP} == {0.5}
    assert [(one.variant, one.step) for one in points] == [(0, 0), (0, 10), (0, 20), (0, 30), (1, 0), (1, 10), (1, 20)]


def test_findings_seconds_and_where_scores_came_from_are_told(either_database: Database) -> None:
    library = make_library(either_database)
    sweep = launch(either_database, library, 2)
    finding = FindingRaised(name="collapse", severity="warning", title="One takes all", evidence="e", remedy="r")
    with either_database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
        assert claim is not None
        run = session.get(Run, claim.run_id)
        assert run is not None
        journal.append(session, run, [finding, finding, finding.model_copy(update={"name": "flat_rewards"})])
        for hit in (False, True):
            note = {"scoring": {"logprob": {"hit": hit}, "reward": {"hit": True}}}
            session.add(JournalEntry(run_id=run.id, seq=90 + hit, kind="scoring", payload=note, at=run.created_at))
        attempts.finish(session, claim.run_id, claim.token, OutcomeReached(outcome=Outcome.SUCCEEDED))
        attempt = session.get(Attempt, (run.id, 1))
        assert attempt is not None
        attempt.ended_at = attempt.started_at + timedelta(seconds=42)
    with either_database.reading() as session:
        first, second = results.list_results(session, sweep)
    assert [one.name for one in first.findings] == ["collapse", "flat_rewards"]
    assert (first.seconds, first.from_cache) == (42.0, False)
    assert (second.findings, second.seconds, second.from_cache) == ([], None, None)


def test_two_runs_that_made_a_part_each_both_made_scores_and_the_third_found_them(database: Database, library: Library) -> None:
    """Of runs that begin together, one may make the rewards and another log π_ref."""
    sweep = launch(database, library, 64)
    made = [{"logprob": True, "reward": False}, {"logprob": False, "reward": True}, {"logprob": True, "reward": True}]
    with database.writing() as session:
        runs = sweeps.list_runs(session, sweep.id)
        for variant, hits in enumerate(made):
            note = {"scoring": {part: {"hit": hit} for part, hit in hits.items()}}
            run = runs[variant]
            session.add(JournalEntry(run_id=run.id, seq=90, kind="scoring", payload=note, at=run.created_at))
    with database.reading() as session:
        assert [one.from_cache for one in results.list_results(session, sweep)[:4]] == [False, False, True, None]


def test_a_deleted_run_leaves_an_empty_row(database: Database, library: Library, files: Files) -> None:
    sweep = launch(database, library, 2)
    with database.writing() as session:
        run = sweeps.list_runs(session, sweep.id)[0]
        run_services.request_cancel(session, library.user.id, run.id)
        run_services.delete(session, files, library.user.id, run.id)
    with database.reading() as session:
        first, second = results.list_results(session, sweeps.get_sweep(session, library.user.id, sweep.id))
        row = sweeps.describe_sweep(session, library.user.id, sweeps.get_sweep(session, library.user.id, sweep.id))
    assert first.run is None
    assert second.run is not None
    assert row.num_deleted == 1


def test_the_weight_histogram_of_the_newest_step_stands_for_a_run(database: Database, library: Library) -> None:
    sweep = launch(database, library, 2)
    with database.writing() as session:
        found = sweeps.list_runs(session, sweep.id)
        for seq, histogram in ((10, [1, 0]), (11, [0, 4])):
            session.add(
                JournalEntry(run_id=found[0].id, seq=seq, kind="step", payload={"histogram": histogram}, at=sweep.created_at)
            )
    with database.reading() as session:
        assert results.list_histograms(session, [run.id for run in found.values()]) == {found[0].id: [0, 4]}
