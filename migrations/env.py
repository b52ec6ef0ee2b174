"""Alembic's entry: runs the steps on the connection it is given, or on the studio's own database.

alembic revision --autogenerate -m "Add something"     (the settings of the environment say which database)
"""

from alembic import context
from sqlalchemy import Connection

from app.settings import Settings
from app.store.database import WRITE, create_engine_for
from app.store.tables import Base, UtcDateTime


def render_item(kind: str, item: object, _context: object) -> str | bool:
    """Migrations don't import the models: our own type is written as what it is in the database."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


def run(connection: Connection) -> None:
    """All steps in one transaction: a killed migration leaves the database as it was."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL lock_timeout = '10s'")
    context.configure(
        connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True, render_item=render_item
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with create_engine_for(Settings()).execution_options(**WRITE, studio_rebuild=True).begin() as own:
        run(own)
