"""Retention: what the rules let go goes, is said in the run's journal, and never while a run may still need it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.services import runs
from app.services.keeping import retention
from app.settings import Settings
from app.store import journal
from app.store.database import Database, now
from app.store.files.files import Files
from app.store.tables import Run, Scoring
from tests.conftest import Library, make_library
from tests.flow.watching import fetch, launch, read_journal
from tests.scored import make_facts


@pytest.fixture
def library(either_database: Database) -> Library:
    return make_library(either_database)


def ended(database: Database, library: Library, files: Files, *, days: float, state: str = "failed") -> str:
    """A run that ended so many days ago, with three checkpoints and two attempts."""
    run_id = launch(database, library)
    with database.writing() as session:
        at = session.get_one(Run, run_id).created_at - timedelta(days=days)
        session.execute(update(Run).where(Run.id == run_id).values(state=state, finished_at=at, attempt=2))
    for step in (8, 9, 10):
        write(files.checkpoints_dir(run_id) / f"step-{step:06d}" / "tensors.safetensors")
    for number in (1, 2):
        write(files.attempt_dir(run_id, number) / "log.txt")
    write(files.artifacts_dir(run_id) / "recipe.json")
    return run_id


def write(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 1000)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rules(settings: Settings, **changes: float) -> Settings:
    return settings.model_copy(update=changes)


def texts(database: Database, run_id: str) -> list[str]:
    return [entry.payload["text"] for entry in read_journal(database, run_id, "log")]


def test_without_a_rule_everything_stays(either_database: Database, files: Files, library: Library, settings: Settings) -> None:
    run_id = ended(either_database, library, files, days=1000)
    assert retention.prune(either_database, files, settings) == []
    assert len(names(files.checkpoints_dir(run_id))) == 3


def test_the_newest_checkpoints_of_an_ended_run_are_kept(
    either_database: Database, files: Files, library: Library, settings: Settings
) -> None:
    run_id = ended(either_database, library, files, days=0)
    (removal,) = retention.prune(either_database, files, rules(settings, keep_checkpoints=1))
    assert removal.num_bytes == 2000
    assert names(files.checkpoints_dir(run_id)) == ["step-000010"]
    assert texts(either_database, run_id) == [
        "Checkpoints were removed: step-000008, step-000009, because of an ended run the newest 1 are kept."
    ]
    assert retention.prune(either_database, files, rules(settings, keep_checkpoints=1)) == []


def test_checkpoints_and_logs_of_old_runs_go_and_artifacts_stay(
    either_database: Database, files: Files, library: Library, settings: Settings
) -> None:
    old, young = (ended(either_database, library, files, days=days) for days in (11, 9))
    given = rules(settings, checkpoints_days=10, logs_days=10)
    assert {one.owner for one in retention.prune(either_database, files, given)} == {old}
    assert names(files.run_dir(old)) == ["artifacts", "attempts", "checkpoints"]
    assert names(files.run_dir(old) / "attempts") == names(files.checkpoints_dir(old)) == []
    assert names(files.artifacts_dir(old)) == ["recipe.json"]
    assert len(names(files.checkpoints_dir(young))) == 3
    told = texts(either_database, old)
    assert told[0].startswith("All checkpoints were removed (step-000008, step-000009, step-000010), because the run ended")
    assert told[1].startswith("Logs and spools of 2 attempts were removed")
    entries = read_journal(either_database, old)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))


def test_a_dry_run_says_it_and_removes_nothing(
    either_database: Database, files: Files, library: Library, settings: Settings
) -> None:
    run_id = ended(either_database, library, files, days=11)
    given = rules(settings, checkpoints_days=10)
    (planned,) = retention.prune(either_database, files, given, dry_run=True)
    assert len(names(files.checkpoints_dir(run_id))) == 3
    assert texts(either_database, run_id) == []
    (done,) = retention.prune(either_database, files, given)
    assert planned.sentence.startswith("All checkpoints would be removed (step-000008")
    assert done.sentence.startswith("All checkpoints were removed (step-000008")
    assert done.num_bytes == planned.num_bytes


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_run_that_lives_loses_nothing(
    either_database: Database, files: Files, library: Library, settings: Settings, state: str
) -> None:
    run_id = ended(either_database, library, files, days=1000, state=state)
    assert retention.prune(either_database, files, rules(settings, checkpoints_days=1, logs_days=1, keep_checkpoints=1)) == []
    assert len(names(files.checkpoints_dir(run_id))) == 3


def test_a_run_that_is_resumed_between_the_look_and_the_lock_loses_nothing(
    either_database: Database, files: Files, library: Library, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = ended(either_database, library, files, days=11)
    lock_run = retention.lock_run

    def resume_first(session: object, locked_id: str) -> Run:
        runs.resume(session, library.user.id, locked_id)  # type: ignore[arg-type]
        return lock_run(session, locked_id)  # type: ignore[arg-type]

    monkeypatch.setattr(retention, "lock_run", resume_first)
    assert retention.prune(either_database, files, rules(settings, checkpoints_days=10)) == []
    assert fetch(either_database, run_id).state == "queued"
    assert len(names(files.checkpoints_dir(run_id))) == 3


def test_a_removal_that_is_not_recorded_does_not_happen(
    either_database: Database, files: Files, library: Library, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = ended(either_database, library, files, days=11)

    def refuse(*_arguments: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(journal, "append", refuse)
    with pytest.raises(OSError, match="full"):
        retention.prune(either_database, files, rules(settings, checkpoints_days=10))
    assert names(files.checkpoints_dir(run_id)) == ["step-000008", "step-000009", "step-000010"]


def test_what_a_killed_pruning_set_aside_is_removed_by_the_next(
    either_database: Database, files: Files, library: Library, settings: Settings
) -> None:
    run_id = ended(either_database, library, files, days=0)
    folder = files.checkpoints_dir(run_id)
    (folder / "step-000008").rename(folder / f"{retention.SET_ASIDE}step-000008")
    retention.prune(either_database, files, rules(settings, keep_checkpoints=2))
    assert names(folder) == ["step-000009", "step-000010"]


def test_resuming_a_run_without_its_checkpoints_says_that_it_starts_from_0(
    either_database: Database, files: Files, library: Library, settings: Settings
) -> None:
    run_id = ended(either_database, library, files, days=11)
    retention.prune(either_database, files, rules(settings, checkpoints_days=10))
    with either_database.writing() as session:
        runs.resume(session, library.user.id, run_id)
    told = read_journal(either_database, run_id, "state")[-1].payload["reason"]
    assert told == "It was resumed. Its checkpoints were removed, so it starts from step 0."


def test_scorings_that_nobody_used_for_long_go(
    either_database: Database, files: Files, library: Library, settings: Settings
) -> None:
    with either_database.writing() as session:
        at = library.user.created_at
        for name, days in (("old", 31), ("young", 29)):
            used = at - timedelta(days=days)
            session.add(
                Scoring(
                    id=f"scoring_{name}", owner_id=library.user.id, name=name, fingerprint=name, settings={},
                    dataset_id=library.dataset.id, policy_id=library.policy.id, created_at=used, used_at=used,
                )
            )  # fmt: skip
    (removal,) = retention.prune(either_database, files, rules(settings, scorings_days=30))
    assert removal.owner == "scoring_old"
    with either_database.reading() as session:
        assert session.get(Scoring, "scoring_old") is None
        assert session.get(Scoring, "scoring_young") is not None


def test_a_scoring_stays_that_is_asked_for_while_others_are_pruned(
    either_database: Database, files: Files, library: Library, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = library.user.created_at - timedelta(days=31)
    with either_database.writing() as session:
        session.add(
            Scoring(
                id="scoring_old", owner_id=library.user.id, name="old", fingerprint="old", settings={},
                dataset_id=library.dataset.id, policy_id=library.policy.id, created_at=used, used_at=used,
            )
        )  # fmt: skip
    plan = retention._plan_scoring

    def plan_slowly(*of: Any) -> retention.Removal:
        with either_database.writing() as session:
            session.get_one(Scoring, "scoring_old").used_at = now(session)
        return plan(*of)

    monkeypatch.setattr(retention, "_plan_scoring", plan_slowly)
    assert retention.prune(either_database, files, rules(settings, scorings_days=30)) == []
    with either_database.reading() as session:
        assert session.get(Scoring, "scoring_old") is not None


@pytest.mark.parametrize("state", ["failed", "queued"])
def test_a_scoring_goes_with_its_size_and_never_while_it_is_used(
    either_database: Database, files: Files, library: Library, settings: Settings, state: str
) -> None:
    key, facts = "logprob-aaaa", make_facts().model_dump(mode="json")
    maker = ended(either_database, library, files, days=31, state=state)
    with either_database.writing() as session:
        at = library.user.created_at - timedelta(days=31)
        session.add(
            Scoring(
                id="scoring_old", owner_id=library.user.id, name="old", fingerprint="old", settings={}, facts=facts,
                dataset_id=library.dataset.id, policy_id=library.policy.id, created_at=at, used_at=at,
            )
        )  # fmt: skip
        session.flush()
        session.execute(update(Run).where(Run.id == maker).values(scoring_id="scoring_old", kind="scoring"))
    write(files.scoring_dir(key) / "scores.parquet")
    given = rules(settings, scorings_days=30)
    planned = retention.prune(either_database, files, given, dry_run=True)
    assert files.scoring_dir(key).is_dir()
    done = retention.prune(either_database, files, given)
    sizes = [("scoring_old", 7000)] if state == "failed" else []  # scores; 3 checkpoints, 2 logs and an artifact of its run
    assert [(one.owner, one.num_bytes) for one in planned] == [(one.owner, one.num_bytes) for one in done] == sizes
    assert files.scoring_dir(key).is_dir() == (state == "queued")
