"""Let runs be ordered, held and sent to a worker, and workers be paused and say what they run."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261127_steer_the_queue"
down_revision = "20261123_scorings_sweeps"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)

FILL = {
    "sqlite": "UPDATE runs SET place = (julianday(queued_at) - 2440587.5) * 86400.0, "
    "num_processes = coalesce(json_extract(recipe, '$.training.num_processes'), 1)",
    "postgresql": "UPDATE runs SET place = extract(epoch FROM queued_at), "
    "num_processes = coalesce((recipe #>> '{training,num_processes}')::integer, 1)",
}


def upgrade() -> None:
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("place", sa.Float(53), nullable=False, server_default="0"))
        runs.add_column(sa.Column("num_processes", sa.Integer(), nullable=False, server_default="1"))
        runs.add_column(sa.Column("held_at", TIME, nullable=True))
        runs.add_column(sa.Column("wanted_worker", sa.String(length=120), nullable=True))
        runs.add_column(sa.Column("avoided_worker", sa.String(length=120), nullable=True))
        runs.add_column(sa.Column("release_requested_at", TIME, nullable=True))
        runs.drop_index("ix_runs_claim")
        runs.create_index("ix_runs_line", ["state", "owner_id", "priority", "place"])
    op.execute(FILL[op.get_bind().dialect.name])
    with op.batch_alter_table("workers") as workers:
        workers.add_column(sa.Column("paused_at", TIME, nullable=True))
        workers.add_column(sa.Column("left_at", TIME, nullable=True))
        workers.add_column(sa.Column("load", JSON, nullable=False, server_default="{}"))
        workers.add_column(sa.Column("version", sa.String(length=40), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("workers") as workers:
        for column in ("version", "load", "left_at", "paused_at"):
            workers.drop_column(column)
    with op.batch_alter_table("runs") as runs:
        runs.drop_index("ix_runs_line")
        runs.create_index("ix_runs_claim", ["state", "priority", "queued_at"])
        for column in ("release_requested_at", "avoided_worker", "wanted_worker", "held_at", "num_processes", "place"):
            runs.drop_column(column)
