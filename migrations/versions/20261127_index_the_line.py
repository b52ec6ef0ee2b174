"""Index the runs that wait to begin in the order in which each owner's begin."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_index_the_line"
down_revision = "20261127_metric_spans"
branch_labels = None
depends_on = None

WAITING = sa.text("state = 'queued' AND held_at IS NULL")


def upgrade() -> None:
    op.drop_index("ix_runs_line", "runs")
    op.create_index("ix_runs_state", "runs", ["state", "owner_id"])
    columns = ["owner_id", sa.text("priority DESC"), "place", "id"]
    op.create_index("ix_runs_line", "runs", columns, sqlite_where=WAITING, postgresql_where=WAITING)


def downgrade() -> None:
    op.drop_index("ix_runs_line", "runs")
    op.drop_index("ix_runs_state", "runs")
    op.create_index("ix_runs_line", "runs", ["state", "owner_id", "priority", "place"])
