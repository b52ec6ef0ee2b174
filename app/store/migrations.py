"""Migrations from within: upgrade to this version, and whether that is needed. The steps are in `migrations/versions`.

Whether it is needed is read without Alembic, and a new database gets its tables as they are now instead of walking through all
that they have been: a process that changes no old tables is spared Alembic's 12 MB, and a new studio most of a second.
"""

import re
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, insert, inspect, select

from app.domain.errors import StudioError
from app.store.tables import Base
from app.system.installation import find_folder

if TYPE_CHECKING:
    from alembic.config import Config

FOLDER = find_folder("migrations")
LINK = re.compile(r'^(revision|down_revision) = (?:"(\w+)"|None)$', re.MULTILINE)
VERSION_TABLE = "alembic_version"
VERSIONS = Table(  # as Alembic makes it
    VERSION_TABLE, MetaData(), Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)  # fmt: skip


def config(connection: Connection | None = None) -> "Config":
    """Alembic's configuration, bound to an open connection where there is one."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(FOLDER))
    made.set_main_option("path_separator", "os")
    if connection is not None:
        made.attributes["connection"] = connection
    return made


def upgrade(connection: Connection, to: str = "head") -> None:
    """Run the missing steps, up to a revision, in the connection's transaction; none where there is no table yet.

    Raises StudioError when the database is newer than this program.
    """
    refuse_newer(connection)
    if find_revision(connection) in (to, head() if to == "head" else to):
        return
    if to in ("head", head()) and not inspect(connection).get_table_names():
        _create(connection)
        return
    from alembic import command

    command.upgrade(config(connection), to)


def _create(connection: Connection) -> None:
    """Make all tables as they are at the last step."""
    Base.metadata.create_all(connection)
    VERSIONS.create(connection)
    connection.execute(insert(VERSIONS), {"version_num": head()})


def refuse_newer(connection: Connection) -> None:
    """Raises StudioError when the database is newer than this program."""
    revision = find_revision(connection)
    if revision is not None and revision not in list_revisions():
        raise StudioError(
            f"The database is of a newer VAR Studio (migration {revision}), which this one doesn't know: "
            "start the newer version, or point STUDIO_DATA_DIR at another folder."
        )


def is_current(connection: Connection) -> bool:
    """Return whether the database is exactly at this version's last step."""
    return find_revision(connection) == head()


def find_revision(connection: Connection) -> str | None:
    """Return the last step that the database has had; None before the first."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.scalar(select(VERSIONS.c.version_num))
    return revision


def list_revisions() -> set[str]:
    """Return every step that this version knows."""
    return set(_links())


def head() -> str:
    """This version's last step: the one that no other follows."""
    links = _links()
    (last,) = set(links) - set(links.values())
    return last


@cache
def _links() -> dict[str, str]:
    """Return each step with the one before it, empty for the first."""
    links = {}
    for path in (FOLDER / "versions").glob("*.py"):
        found = dict(LINK.findall(path.read_text(encoding="utf-8")))
        links[found["revision"]] = found["down_revision"]
    return links
