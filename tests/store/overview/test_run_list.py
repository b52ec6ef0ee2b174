"""The list of runs: found by words and tags, in every order without a double or a gap, and by the newest figures."""

from itertools import pairwise

import pytest

from app.domain.events import AttemptResumed, EvaluationLogged, Event, FinalLogged, SpoolLine
from app.domain.run import RunState
from app.services import attempts, names, recordings
from app.services import runs as services
from app.store import journal
from app.store.database import Database
from app.store.overview.run_list import RunQuery, RunSort, SortOrder, find_runs, list_tags
from app.store.runs import get_run
from app.store.tables import Run
from tests.conftest import Library, make_library
from tests.store.test_query_plans import plans_of, scans

FIGURES = [None, 0.5, 0.5, None, -1.25, 2.0, 0.5]


@pytest.fixture
def ids(database: Database, library: Library) -> list[str]:
    """Seven runs, oldest first, with names that don't follow their ages and figures of which some are equal or missing."""
    with database.writing() as session:
        made = [services.launch(session, library.user.id, library.recipe(name=f"Run {5 * n % 7}")) for n in range(7)]
        for run, figure in zip(made, FIGURES, strict=True):
            run.kl = run.reward_gain = run.win_rate = figure
    return [run.id for run in made]


def find(database: Database, owner_id: str = "user_ada", **asked: object) -> list[Run]:
    """All pages of two runs each."""
    found: list[Run] = []
    with database.reading() as session:
        query = RunQuery(**asked)  # type: ignore[arg-type]
        while page := find_runs(session, owner_id, query, after=found[-1].id if found else None, limit=2):
            found += page
    return found


@pytest.mark.parametrize("order", SortOrder)
@pytest.mark.parametrize("sort", RunSort)
def test_pages_are_in_order_without_a_double_or_a_gap(
    database: Database, ids: list[str], sort: RunSort, order: SortOrder
) -> None:
    found = find(database, sort=sort, order=order)
    keys = [(getattr(run, sort.value) if sort is not RunSort.CREATED else 0, run.id) for run in found]
    in_order = [first < second if order is SortOrder.ASCENDING else first > second for first, second in pairwise(keys)]
    assert all(in_order)
    assert len(found) == (5 if sort.is_figure else 7)


def test_the_usual_order_shows_the_best_first(database: Database, ids: list[str]) -> None:
    assert find(database, sort=RunSort.KL)[0].kl == -1.25
    assert find(database, sort=RunSort.REWARD_GAIN)[0].reward_gain == 2.0
    assert find(database, sort=RunSort.NAME)[0].name == "Run 0"
    assert [run.id for run in find(database)] == ids[::-1]


def test_words_are_looked_for_in_names_notes_tags_and_ids(either_database: Database) -> None:
    library = make_library(either_database)
    with either_database.writing() as session:
        first, second, third = (
            services.launch(session, "user_ada", library.recipe(name=name)) for name in ("Kind desk", "Curt 50%", "kind_2")
        )
        names.tag(second, ["Baseline", "seed 3"])
        names.note(third, "worse than Kind desk\nby far")
    with either_database.reading() as session:
        for words, expected in {
            "kind": {first.id, third.id}, "KIND desk": {first.id, third.id}, "base": {second.id}, "50%": {second.id},
            "5%": set(), "d_2": {third.id}, first.id: {first.id}, "far kind": {third.id}, "\0": set(),
            "": {first.id, second.id, third.id},
        }.items():  # fmt: skip
            assert {run.id for run in find_runs(session, "user_ada", RunQuery(search=words))} == expected, words
        assert [run.id for run in find_runs(session, "user_ada", RunQuery(tag="Baseline"))] == [second.id]
        assert find_runs(session, "user_ada", RunQuery(tag="base")) == []
        assert find_runs(session, "user_eve", RunQuery(mine=True)) == []
        assert list_tags(session, "user_ada") == [("Baseline", 1), ("seed 3", 1)]
        assert list_tags(session, "user_eve", mine=True) == []
        assert second.tags == ["Baseline", "seed 3"]


def test_a_state_and_a_tag_narrow_every_order(database: Database, ids: list[str]) -> None:
    with database.writing() as session:
        for run_id in ids[4:]:
            names.tag(get_run(session, "user_ada", run_id), ["new"])
        get_run(session, "user_ada", ids[5]).state = RunState.FAILED
    assert [run.id for run in find(database, sort=RunSort.KL, tag="new", state=RunState.QUEUED)] == [ids[4], ids[6]]


def test_a_run_keeps_its_newest_figures_and_those_of_the_test_set_first(database: Database, library: Library) -> None:
    with database.writing() as session:
        run_id = services.launch(session, library.user.id, library.recipe()).id
        claim = attempts.begin(session, "box", 60)
        assert claim is not None

    def record(first: int, *events: Event) -> tuple[float | None, ...]:
        lines = [
            SpoolLine(n=n, at="2026-01-31T12:00:00Z", kind=event.model_dump()["kind"], payload=journal.to_payload(event))
            for n, event in enumerate(events, first)
        ]
        with database.writing() as session:
            recordings.record(session, run_id, claim.token, lines)
        with database.reading() as session:
            run = get_run(session, "user_ada", run_id)
            return run.reward_gain, run.win_rate, run.kl

    assert record(1, EvaluationLogged(step=5, metrics={"eval/reward_gain": 0.5, "eval/kl": 1.0})) == (0.5, None, 1.0)
    assert record(2, EvaluationLogged(step=9, metrics={"eval/reward_gain": 0.7, "eval/kl": None})) == (0.7, None, None)
    assert record(3, AttemptResumed(attempt=2, step=6, checkpoint="step-6")) == (0.5, None, 1.0)
    final = FinalLogged(step=9, metrics={"test/reward_gain": 0.4, "test/win_rate": 0.6})
    assert record(4, EvaluationLogged(step=9, metrics={"eval/reward_gain": 0.8}), final) == (0.4, 0.6, 1.0)


@pytest.mark.parametrize("sort", RunSort)
def test_each_order_is_read_by_its_index_and_never_sorted(database: Database, ids: list[str], sort: RunSort) -> None:
    for asked in (RunQuery(sort=sort), RunQuery(sort=sort, order=SortOrder.ASCENDING)):
        for after in (None, ids[1]):
            plan = plans_of(database, lambda s, asked=asked, after=after: find_runs(s, "user_ada", asked, after=after))
            assert not any("B-TREE" in step for step in plan), plan
            assert scans(plan) == []
