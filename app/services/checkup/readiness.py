"""Whether the studio can work: its database, its tables, its folder and its broker, each with a sentence when it can't."""

import secrets
from dataclasses import dataclass

from sqlalchemy import text

from app.domain.errors import StudioError
from app.store import migrations
from app.store.database import Database
from app.store.files.files import Files
from app.store.files.shared_files import SharedFiles


@dataclass(frozen=True)
class Check:
    """`detail` says what is wrong; `needed` is whether nothing works without it."""

    ok: bool
    detail: str = ""
    needed: bool = True


def check(database: Database, files: Files) -> dict[str, Check]:
    """Return all checks by name."""
    reached, tables = check_database(database)
    checks = {"database": reached, "tables": tables, "data_folder": check_folder(files), "broker": check_broker(database)}
    return checks | ({"store": check_store(files)} if isinstance(files, SharedFiles) else {})


def check_database(database: Database) -> tuple[Check, Check]:
    """Return whether it answers, and whether its tables are those of this version."""
    try:
        with database.reading() as session:
            session.execute(text("SELECT 1")).scalar_one()
            is_current = migrations.is_current(session.connection())
    except StudioError as error:
        return Check(False, error.detail), Check(False, "The database's tables can't be looked at.")
    if not is_current:
        return Check(True), Check(False, "The database's tables are not those of this version: run varstudio db upgrade.")
    return Check(True), Check(True)


def check_folder(files: Files) -> Check:
    """Return whether a file can be written into the data folder and read again."""
    probe = files.root / f".readiness-{secrets.token_hex(8)}"
    try:
        probe.write_bytes(b"ready")
        is_same = probe.read_bytes() == b"ready"
        probe.unlink()
    except OSError as error:
        probe.unlink(missing_ok=True)
        return Check(False, f"The data folder {files.root} can't be written: {error.strerror or error}.")
    return Check(is_same, "" if is_same else f"The data folder {files.root} does not keep what is written.")


def check_store(files: SharedFiles) -> Check:
    """Return whether the object store answers."""
    try:
        files.store.list_names("readiness")
    except StudioError as error:
        return Check(False, error.detail)
    return Check(True)


def check_broker(database: Database) -> Check:
    """Return whether hints can be sent; without, workers find runs by looking."""
    if database.hints.is_reachable():
        return Check(True, needed=False)
    seconds = database.settings.poll_seconds
    return Check(False, f"The broker does not answer: runs start when a worker looks, every {seconds:g} s.", needed=False)
