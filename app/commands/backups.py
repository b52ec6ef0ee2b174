"""`varstudio backup` and `varstudio restore`: on the server's own machine, straight to its database and files."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from app.commands.terminal import err, out
from app.domain.backup import BackupManifest
from app.domain.errors import Unavailable
from app.services import acts
from app.services.keeping import backups, restores
from app.settings import Settings
from app.store.database import Database
from app.store.files.archive import verify
from app.store.files.files import Files
from app.system.files import private_files
from app.system.sizes import describe_size

MAX_MISSING = 10


def backup(
    target: Annotated[Path, typer.Argument(help="The new file, or a folder that gets a file with the time in its name.")],
    verify_only: Annotated[bool, typer.Option("--verify", help="Check the backup TARGET instead of taking one.")] = False,
    without_scorings: Annotated[bool, typer.Option("--without-scorings", help="Leave out what runs can compute again.")] = False,
) -> None:
    """Keep the whole studio in one file, also while it works."""
    if verify_only:
        out.print(f"{target} is whole: {describe(verify(target))}.", markup=False)
        return
    settings = Settings()
    if target.is_dir():
        target /= f"studio-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar"
    database = Database(settings)
    try:
        manifest = backups.back_up(database, Files(settings.root), target.absolute(), with_scorings=not without_scorings)
        note(database, f"A backup was taken: {target.name}.")
    finally:
        database.close()
    tell_missing(manifest)
    if settings.store_url:
        err.print(
            f"Files that are only in the object store ({settings.store_url}) are not in it: keep that one by its own means."
        )
    out.print(f"Kept {describe(manifest)} in {target}.", markup=False)


def restore(source: Annotated[Path, typer.Argument(help="A file that varstudio backup has made.")]) -> None:
    """Fill an empty studio with a backup; STUDIO_DATA_DIR and STUDIO_DATABASE_URL say which."""
    settings = Settings()
    with private_files():
        manifest = restores.restore(settings, source)
    database = Database(settings)
    try:
        note(database, f"A backup of {manifest.created_at:%Y-%m-%d %H:%M} UTC was restored: {source.name}.")
    finally:
        database.close()
    tell_missing(manifest)
    out.print(f"Restored {describe(manifest)} into {settings.root}. Start the studio with: varstudio up", markup=False)


def note(database: Database, text: str) -> None:
    """Write into the log of acts what was done here; that it was done doesn't depend on it."""
    try:
        with database.writing() as session:
            acts.record(session, acts.at_the_server(), "studio_kept", text)
    except Unavailable as error:
        err.print(f"The log of acts has no line of it: {error.detail}", markup=False)


def describe(manifest: BackupManifest) -> str:
    """Return what a backup holds, in one line."""
    parts = f"{manifest.num_rows:,} rows of {len(manifest.tables)} tables and {len(manifest.files):,} files"
    return f"{parts} ({describe_size(manifest.num_bytes)}) of {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC"


def tell_missing(manifest: BackupManifest) -> None:
    """Files that were deleted or changed while the backup was taken: they are not in it."""
    for name in manifest.missing[:MAX_MISSING]:
        err.print(f"Not in the backup, because it was removed or changed meanwhile: {name}", markup=False)
    if len(manifest.missing) > MAX_MISSING:
        err.print(f"… and {len(manifest.missing) - MAX_MISSING} more.", markup=False)
