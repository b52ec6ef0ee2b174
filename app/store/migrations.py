"""Migrations from within: upgrade to this version, and whether that is needed. The steps are in `migrations/versions`."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from app.domain.errors import StudioError

FOLDER = Path(__file__).resolve().parents[2] / "migrations"


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, bound to an open connection where there is one."""
    made = Config()
    made.set_main_option("script_location", str(FOLDER))
    made.set_main_option("path_separator", "os")
    if connection is not None:
        made.attributes["connection"] = connection
    return made


def upgrade(connection: Connection, to: str = "head") -> None:
    """Run the missing steps, up to a revision, in the connection's transaction.

    Raises StudioError when the database is newer than this program.
    """
    refuse_newer(connection)
    command.upgrade(config(connection), to)


def refuse_newer(connection: Connection) -> None:
    """Raises StudioError when the database is newer than this program."""
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - list_revisions()
    if unknown:
        raise StudioError(
            f"The database is of a newer VAR Studio (migration {', '.join(sorted(unknown))}), which this one doesn't know: "
            "start the newer version, or point STUDIO_DATA_DIR at another folder."
        )


def is_current(connection: Connection) -> bool:
    """Whether the database is exactly at this version's last step."""
    heads = ScriptDirectory.from_config(config()).get_heads()
    return set(MigrationContext.configure(connection).get_current_heads()) == set(heads)


def list_revisions() -> set[str]:
    """Every step that this version knows."""
    return {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}


def find_revision(connection: Connection) -> str | None:
    """The last step that the database has had; None before the first."""
    heads = MigrationContext.configure(connection).get_current_heads()
    return heads[0] if heads else None
