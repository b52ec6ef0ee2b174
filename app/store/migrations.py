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


def upgrade(connection: Connection) -> None:
    """Run the missing steps in the connection's transaction.

    Raises StudioError when the database is newer than this program.
    """
    settings = config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(settings).walk_revisions()}
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
    if unknown:
        raise StudioError(
            f"The database is of a newer VAR Studio (migration {', '.join(sorted(unknown))}), which this one doesn't know: "
            "start the newer version, or point STUDIO_DATA_DIR at another folder."
        )
    command.upgrade(settings, "head")


def is_current(connection: Connection) -> bool:
    """Whether the database is exactly at this version's last step."""
    heads = ScriptDirectory.from_config(config()).get_heads()
    return set(MigrationContext.configure(connection).get_current_heads()) == set(heads)
