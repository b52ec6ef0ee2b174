"""Backups of the whole studio, taken while it works: one moment of the database, and the files that its rows speak of.

What a backup holds can be restored on either database (`restores`). The object store's files are not in it.
"""

import os
import tempfile
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

from sqlalchemy import Table
from sqlalchemy.orm import Session

from app.domain.backup import BackupManifest, Member
from app.domain.errors import Conflict, NotFound, StudioError
from app.store import backup_contents, portable
from app.store.backup_contents import Holdings, RunFacts
from app.store.database import Database, now
from app.store.files.archive import FILES, TABLES, ArchiveWriter
from app.store.files.files import Files
from app.store.migrations import find_revision, is_current


def back_up(database: Database, files: Files, target: Path, *, with_scorings: bool = True) -> BackupManifest:
    """Write everything into the new file `target`; it appears whole or not at all.

    Raises: Conflict when the file is there; NotFound when its folder is not; StudioError when the tables are not of this
    version; Unavailable.
    """
    if target.exists():
        raise Conflict(f"{target} is there already: choose another name, so that no backup is lost.")
    if not target.parent.is_dir():
        raise NotFound(f"The folder {target.parent} does not exist: make it (mkdir -p {target.parent}), then back up again.")
    with ArchiveWriter(target) as archive:
        with database.snapshot() as session:
            manifest = _begin(session, database, files, with_scorings)
            for table in portable.list_tables():
                manifest.tables[table.name] = _copy_table(session, archive, table, target.parent)
            held = backup_contents.find_holdings(session)
        _copy_files(archive, manifest, files, held)
        archive.finish(manifest)
    return manifest


def _begin(session: Session, database: Database, files: Files, with_scorings: bool) -> BackupManifest:
    connection = session.connection()
    if not is_current(connection):
        raise StudioError("The database's tables are not those of this version: run varstudio db upgrade, then back up.")
    return BackupManifest(
        studio=metadata.version("var-studio"),
        revision=find_revision(connection) or "",
        database="sqlite" if database.is_sqlite else "postgresql",
        data_dir=str(files.root),
        created_at=now(session),
        with_scorings=with_scorings,
    )


def _copy_table(session: Session, archive: ArchiveWriter, table: Table, folder: Path) -> Member:
    """Through a nameless file beside the target, because a member's size is written before it."""
    with tempfile.TemporaryFile(dir=folder) as file:
        num_rows = 0
        for line in portable.dump(session, table):
            file.write(line)
            num_rows += 1
        size = file.tell()
        file.seek(0)
        member = archive.add(f"{TABLES}{table.name}.jsonl", file, size)
    assert member is not None
    return member.model_copy(update={"num_rows": num_rows})


def _copy_files(archive: ArchiveWriter, manifest: BackupManifest, files: Files, held: Holdings) -> None:
    """Checkpoints first: a spool and a record that are copied later know at least the steps that lead to them."""
    for run in held.runs:
        _copy_checkpoint(archive, manifest, files, run)
    for path in backup_contents.list_files(files, held, with_scorings=manifest.with_scorings):
        _copy_file(archive, manifest, path, str(path.relative_to(files.root)))


def _copy_file(archive: ArchiveWriter, manifest: BackupManifest, path: Path, name: str) -> None:
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError:
            manifest.missing.append(name)
            return
        size = backup_contents.whole_size(path, file)
        member = archive.add(f"{FILES}{name}", file, size, os.fstat(file.fileno()).st_mtime)
    if member is None:
        manifest.missing.append(name)
    else:
        manifest.files[name] = member


def _copy_checkpoint(archive: ArchiveWriter, manifest: BackupManifest, files: Files, run: RunFacts) -> None:
    """The newest checkpoint that is there as a whole; the runner verifies its hashes when it resumes."""
    for folder in backup_contents.list_checkpoints(files, run):
        with backup_contents.open_checkpoint(folder) as opened:
            if opened is None:
                continue
            for name, file in opened.items():
                place = f"{folder.relative_to(files.root)}/{name}"
                member = archive.add(f"{FILES}{place}", file, os.fstat(file.fileno()).st_size)
                if member is not None:
                    manifest.files[place] = member
            return
