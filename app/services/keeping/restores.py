"""Restoring a backup into an empty studio, on whichever database its settings name; a killed restore is simply run again.

The files are put in place first, then all rows in one transaction. A note in the data folder says which backup is being
restored, so that a second try knows its own half from files of somebody else's.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sqlalchemy import Connection, MetaData, Table
from sqlalchemy.orm import Session

from app.domain.backup import FOLDERS, BackupManifest, refuse_strange_files
from app.domain.errors import Conflict, InvalidInput, StudioError
from app.settings import Settings
from app.store import migrations, portable
from app.store.database import Database
from app.store.files.archive import FILES, TABLES, open_archive, verify
from app.store.files.files import make_root, write_atomic
from app.store.models import make_relative
from app.system.files import put_in_place, remove_tree

NOTE = "restoring.json"


def restore(settings: Settings, source: Path) -> BackupManifest:
    """Verify the whole backup, then fill the studio with it.

    Raises: InvalidInput when the backup is damaged, Conflict when the studio isn't empty, StudioError when the backup is of
    a newer version.
    """
    manifest = verify(source)
    refuse_strange_files(str(source), manifest)
    if manifest.revision not in migrations.list_revisions():
        raise StudioError(
            f"{source} is of a newer VAR Studio ({manifest.studio}, migration {manifest.revision}), which this one doesn't know: "
            "restore it with that version."
        )
    make_root(settings.root)
    if not _is_ours(settings.root, manifest):
        _refuse_files(settings.root)
    database = Database(settings)
    try:
        if _is_done(database, settings.root, manifest):
            (settings.root / NOTE).unlink()
            return manifest
        write_atomic(settings.root / NOTE, _note(manifest))
        _put_files(settings.root, source, manifest)
        database.hints.prepare()
        with database.rebuilding() as connection:
            _put_rows(connection, source, manifest)
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                make_relative(session, Path(manifest.data_dir))
                session.commit()
        (settings.root / NOTE).unlink()
    except InvalidInput:  # rows that can't be taken: the folder is as empty as before
        for name in FOLDERS:
            remove_tree(settings.root / name)
        (settings.root / NOTE).unlink(missing_ok=True)
        raise
    finally:
        database.close()
    return manifest


def _note(manifest: BackupManifest) -> bytes:
    return json.dumps({"created_at": manifest.created_at.isoformat(), "data_dir": manifest.data_dir}).encode()


def _is_ours(root: Path, manifest: BackupManifest) -> bool:
    """Return whether a restore of this very backup was begun here."""
    try:
        return (root / NOTE).read_bytes() == _note(manifest)
    except FileNotFoundError:
        return False


def _refuse_files(root: Path) -> None:
    held = [name for name in FOLDERS if (root / name).is_dir() and any((root / name).iterdir())]
    if held:
        raise Conflict(
            f"{root} is not empty (it has {', '.join(held)}): a backup is restored into a new folder only. Name one by "
            "STUDIO_DATA_DIR."
        )


def _is_done(database: Database, root: Path, manifest: BackupManifest) -> bool:
    """Return whether an earlier try ended after its commit. Raises Conflict when rows of somebody else's are there."""
    with database.rebuilding() as connection:
        filled = _list_filled(connection)
    if not filled:
        return False
    if _is_ours(root, manifest):
        return True
    raise Conflict(
        f"The studio's database is not empty (it has {', '.join(filled)}): a backup is restored into a new database only. Name "
        "a new folder by STUDIO_DATA_DIR, or an empty database by STUDIO_DATABASE_URL."
    )


def _list_filled(connection: Connection) -> list[str]:
    return portable.list_filled(connection, _own_tables(portable.read_tables(connection)))


def _own_tables(found: MetaData) -> list[Table]:
    ours = {table.name for table in portable.list_tables()}
    return [table for table in found.sorted_tables if table.name in ours]


def _put_files(root: Path, source: Path, manifest: BackupManifest) -> None:
    with open_archive(source) as members:
        for name, file in members:
            path = name.removeprefix(FILES)
            if name == path or path not in manifest.files:
                continue
            target = root / path
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.restored.tmp")
            with temporary.open("wb") as out:
                shutil.copyfileobj(file, out, 2**20)
            put_in_place(temporary, target)


def _put_rows(connection: Connection, source: Path, manifest: BackupManifest) -> None:
    """Tables of the backup's version, their rows, then the steps to this version."""
    if migrations.find_revision(connection) not in (None, manifest.revision):
        _drop_empty_tables(connection)
    migrations.upgrade(connection, manifest.revision)
    tables = _take_tables(connection, source, manifest)
    with open_archive(source) as members:
        for name, file in members:
            table = name.removeprefix(TABLES).removesuffix(".jsonl")
            if name != table and table in manifest.tables:
                portable.load(connection, tables[table], _lines(file))
    if orphans := portable.list_orphans(connection):
        raise InvalidInput(f"{source} has rows of {', '.join(orphans)} that point to rows that it has not: take another backup.")
    migrations.upgrade(connection)


def _take_tables(connection: Connection, source: Path, manifest: BackupManifest) -> Mapping[str, Table]:
    """Return the tables that are there to be filled, which are those of the backup's version. Raises: InvalidInput."""
    tables = {name: table for name, table in portable.read_tables(connection).tables.items() if name != "alembic_version"}
    if strange := sorted(manifest.tables.keys() - tables.keys()):
        raise InvalidInput(f"{source} has a table {strange[0]!r}, which its version doesn't know: it was not made by VAR Studio.")
    return tables


def _lines(file: Iterable[bytes]) -> Iterator[bytes]:
    yield from file


def _drop_empty_tables(connection: Connection) -> None:
    """Tables of another version without any row make room for those of the backup's."""
    found = portable.read_tables(connection)
    version = [table for name, table in found.tables.items() if name == "alembic_version"]
    found.drop_all(connection, tables=[*_own_tables(found), *version])
