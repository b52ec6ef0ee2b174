"""Checks of the studio itself: database, broker, workers, leases, and what was left behind. `check_all` runs all there are.

No check may stop the others: what one can't find out is its own verdict. No verdict shows a password.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.domain.check_result import CheckResult, error, ok, warning
from app.domain.errors import StudioError
from app.domain.run import FINAL_STATES, RunState
from app.services.checkup.broker import check_broker, shown_url
from app.services.checkup.machine import (
    check_addresses,
    check_disk,
    check_driver,
    check_gpus,
    check_model_roots,
    check_rights,
    check_sqlite,
    check_store,
    check_versions,
)
from app.settings import Settings
from app.store import migrations
from app.store.database import Database, now
from app.store.files.files import ABANDONED_SECONDS
from app.store.tables import Dataset, Model, Run
from app.store.workers import list_living, list_workers
from app.system.installation import find_folder, list_missing_files, restore_command

CLOCK_SECONDS = 2.0
FREE_PAGES_SHARE = 0.5
LATE_SECONDS = 60.0
ORPHAN_SECONDS = 3600.0
MIN_POSTGRES = 12


def check_all(settings: Settings, token: Path) -> list[CheckResult]:
    """Return every check, in the order in which they are read; `token`: the command line's token file."""
    checks: list[tuple[str, Callable[[], list[CheckResult]]]] = [
        ("versions", check_versions),
        ("files", check_files),
        ("sqlite", lambda: check_sqlite(settings)),
        ("database", lambda: check_database(settings)),
        ("broker", lambda: check_broker(settings)),
        ("disk", lambda: check_disk(settings)),
        ("store", lambda: check_store(settings)),
        ("gpus", check_gpus),
        ("driver", check_driver),
        ("rights", lambda: check_rights(settings, token)),
        ("model roots", lambda: check_model_roots(settings)),
        ("addresses", lambda: check_addresses(settings)),
    ]
    return [verdict for name, check in checks for verdict in _guarded(name, check)]


def _guarded(name: str, check: Callable[[], list[CheckResult]]) -> list[CheckResult]:
    try:
        return check()
    except Exception as failure:  # whatever it is, the other checks still run
        return [error(name, f"This could not be checked ({type(failure).__name__}).", "Look at the studio's log.")]


def check_files() -> list[CheckResult]:
    """Templates, static files with the libraries of the pages, and migrations came with the installation."""
    missing = list_missing_files()
    if not missing:
        return [ok("files", "Templates, static files and migrations are here.")]
    if not find_folder("templates").is_dir() and "migrations/env.py" not in missing:  # the image of the workers
        return [warning("files", "There are no pages here, so only workers run from this installation.", restore_command())]
    return [error("files", f"{', '.join(missing)} can't be found, so the studio won't work as meant.", restore_command())]


def check_database(settings: Settings) -> list[CheckResult]:
    """Reachable, of this version, sound; and what its rows say of workers, runs and files."""
    if not settings.database_url and not (settings.root / "studio.db").exists():
        remedy = "Start the studio (varstudio up), or set STUDIO_DATA_DIR to its folder."
        return [warning("database", f"There is no studio in {settings.root} yet.", remedy)]
    database = Database(settings)
    shown = shown_url(settings.sqlalchemy_url)
    try:
        with database.reading() as session:
            verdicts = [ok("database", f"{shown} answers."), *_check_tables(session)]
            verdicts += _check_sqlite_file(session) if database.is_sqlite else _check_postgres(session)
            verdicts.append(_check_clock(session, settings.lease_seconds))
            if migrations.is_current(session.connection()):
                verdicts += [*check_workers(session), *check_leases(session), *check_leftovers(session, settings.root)]
        return verdicts
    except StudioError as failure:
        return [error("database", f"{shown}: {failure.detail}", "Start the database, or correct STUDIO_DATABASE_URL.")]
    except SQLAlchemyError as failure:
        remedy = "If it is damaged: stop the studio, and restore the newest backup into a new folder (varstudio restore)."
        reason = getattr(failure, "orig", None) or type(failure).__name__
        return [error("database", f"{shown} can't be read: {reason}.", remedy)]
    finally:
        database.close()


def _check_tables(session: Session) -> list[CheckResult]:
    connection = session.connection()
    revision = migrations.find_revision(connection)
    if migrations.is_current(connection):
        return [ok("tables", f"They are of this version (migration {revision}).")]
    if revision is None:
        return [error("tables", "The database is empty.", "varstudio db upgrade")]
    if revision not in migrations.list_revisions():
        return [error("tables", f"They are of a newer VAR Studio (migration {revision}).", "Start the newer version.")]
    return [
        error("tables", f"They are of an older version (migration {revision}).", "varstudio backup, then varstudio db upgrade")
    ]


def _check_sqlite_file(session: Session) -> list[CheckResult]:
    found = [str(row[0]) for row in session.execute(text("PRAGMA quick_check(3)"))]
    if found != ["ok"]:
        remedy = "Stop the studio, and restore the newest backup into a new folder (varstudio restore)."
        return [error("integrity", f"The database is damaged: {'; '.join(found)}.", remedy)]
    mode = str(session.execute(text("PRAGMA journal_mode")).scalar_one())
    free, pages = (int(session.execute(text(f"PRAGMA {name}")).scalar_one()) for name in ("freelist_count", "page_count"))
    verdicts = [ok("integrity", f"SQLite's quick check finds nothing; {free:,} of {pages:,} pages are free.")]
    if free > FREE_PAGES_SHARE * max(pages, 1000):
        remedy = "While the studio is stopped: sqlite3 studio.db VACUUM gives them back to the disk; deleting alone does not."
        verdicts.append(warning("free pages", f"{free:,} of {pages:,} pages of the database are free.", remedy))
    if mode != "wal":
        remedy = "Put the data folder on a disk of this machine: another file system may not allow WAL."
        verdicts.append(
            warning("journal mode", f"The journal mode is {mode}, so readers and writers wait for each other.", remedy)
        )
    return verdicts


def _check_postgres(session: Session) -> list[CheckResult]:
    version = str(session.execute(text("SHOW server_version")).scalar_one())
    if int(session.execute(text("SHOW server_version_num")).scalar_one()) // 10_000 < MIN_POSTGRES:
        return [warning("postgresql", f"PostgreSQL {version} is no longer maintained.", "Upgrade it.")]
    return [ok("postgresql", f"PostgreSQL {version}.")]


def _check_clock(session: Session, lease_seconds: float) -> CheckResult:
    """Leases are in the database's time; pages compare it with this machine's."""
    before = time.time()
    there = now(session).timestamp()
    here = (before + time.time()) / 2
    return judge_clock(there - here, lease_seconds)


def judge_clock(seconds: float, lease_seconds: float) -> CheckResult:
    side = "ahead of" if seconds > 0 else "behind"
    sentence = f"The database's clock is {abs(seconds):.1f} s {side} this machine's."
    remedy = "Let both machines follow a time server (NTP)."
    if abs(seconds) > lease_seconds:
        return error("clock", sentence, remedy)
    return warning("clock", sentence, remedy) if abs(seconds) > CLOCK_SECONDS else ok("clock", sentence)


def check_workers(session: Session) -> list[CheckResult]:
    """Somebody is there to run what is queued."""
    living, known = list_living(session), list_workers(session)
    queued = session.scalar(select(func.count()).select_from(Run).where(Run.state == RunState.QUEUED)) or 0
    sentence = f"{len(living)} heard of lately, {len(known) - len(living)} silent; {queued} runs are queued."
    if not living and queued:
        return [warning("workers", sentence, "Start a worker: varstudio up, or python -P -m worker.main.")]
    if queued and all(worker.paused_at is not None for worker in living):
        sentence += " Every worker that is alive is paused, so none of them begins."
        return [warning("workers", sentence, f"Resume one: varstudio workers resume {living[0].id}")]
    return [ok("workers", sentence)]


def check_leases(session: Session) -> list[CheckResult]:
    """Say whether every running run has a worker that renews its lease, or one that takes it back."""
    at = now(session)
    running = session.scalars(select(Run).where(Run.state == RunState.RUNNING))
    late = [run.id for run in running if run.lease_expires_at and (at - run.lease_expires_at).total_seconds() > LATE_SECONDS]
    if late:
        remedy = "Start a worker: it takes them back and they go on from their checkpoints."
        return [warning("leases", f"Nobody holds {len(late)} runs that are running ({', '.join(late[:3])}).", remedy)]
    return [ok("leases", "Every run that is running is held by a worker.")]


def check_leftovers(session: Session, root: Path) -> list[CheckResult]:
    """Return what a crash left behind, and folders that no row knows."""
    verdicts = []
    if (root / "restoring.json").exists():
        remedy = "Run the same varstudio restore again, or delete the folder and begin anew."
        verdicts.append(error("restore", "A restore was left half-way.", remedy))
    ended = set(session.scalars(select(Run.id).where(Run.state.in_([str(state) for state in FINAL_STATES]))))
    half = [*_older(root.glob("uploads/*.part"), ORPHAN_SECONDS), *_older(root.glob("scorings/*.partial"), ABANDONED_SECONDS)]
    half += [path for path in root.glob("runs/*/checkpoints/.*") if path.parent.parent.name in ended]
    unknown = []
    for noun, table in (("datasets", Dataset), ("models", Model), ("runs", Run)):
        known = set(session.scalars(select(table.id)))
        unknown += [path for path in _older((root / noun).glob("*"), ORPHAN_SECONDS) if path.name not in known]
    for reason, paths, remedy in (
        ("are left of something that was cut off", half, "They are removed when the studio starts, or the run goes on."),
        ("belong to no row of the database", unknown, "If no backup is being restored: they may be deleted."),
    ):
        if paths:
            names = ", ".join(str(path.relative_to(root)) for path in paths[:3])
            verdicts.append(warning("leftovers", f"{len(paths)} files or folders {reason}: {names}.", remedy))
    return verdicts or [ok("leftovers", "None.")]


def _older(paths: object, seconds: float) -> list[Path]:
    limit = time.time() - seconds
    return [path for path in paths if path.exists() and path.stat().st_mtime < limit]  # type: ignore[attr-defined]


def as_of() -> str:
    """Return the time of a report, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
