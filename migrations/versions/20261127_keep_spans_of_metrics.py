"""Keep the smallest and the largest value of every 32 and 1024 steps of a series, for those that are there too; index lists."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_metric_spans"
down_revision = "20261127_steer_the_queue"
branch_labels = None
depends_on = None

FILL = """
INSERT INTO metric_spans (run_id, key, width, span, first_step, low, low_step, high, high_step)
SELECT found.run_id, found.key, {width}, found.span, found.first_step, found.low,
       (SELECT min(step) FROM metrics AS m WHERE m.run_id = found.run_id AND m.key = found.key AND m.value = found.low
               AND m.step >= found.span * {width} AND m.step < (found.span + 1) * {width}),
       found.high,
       (SELECT min(step) FROM metrics AS m WHERE m.run_id = found.run_id AND m.key = found.key AND m.value = found.high
               AND m.step >= found.span * {width} AND m.step < (found.span + 1) * {width})
FROM (SELECT run_id, key, step / {width} AS span, min(step) AS first_step, min(value) AS low, max(value) AS high
      FROM metrics GROUP BY run_id, key, step / {width}) AS found
JOIN (SELECT run_id, key, max(step) AS step FROM metrics GROUP BY run_id, key) AS newest
  ON newest.run_id = found.run_id AND newest.key = found.key
WHERE found.span < newest.step / {width}
"""


def upgrade() -> None:
    op.create_table(
        "metric_spans",
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("key", sa.String(length=60), nullable=False),
        sa.Column("width", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("span", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("first_step", sa.Integer(), nullable=False),
        sa.Column("low", sa.Float(precision=53), nullable=True),
        sa.Column("low_step", sa.Integer(), nullable=True),
        sa.Column("high", sa.Float(precision=53), nullable=True),
        sa.Column("high_step", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_metric_spans_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "key", "width", "span", name=op.f("pk_metric_spans")),
    )
    for width in (32, 1024):
        op.execute(FILL.format(width=width))
    op.drop_index("ix_runs_owner_created", table_name="runs")
    op.create_index("ix_runs_owner_kind", "runs", ["owner_id", "kind", "id"])
    op.create_index("ix_runs_owner_kind_state", "runs", ["owner_id", "kind", "state", "id"])


def downgrade() -> None:
    op.drop_index("ix_runs_owner_kind_state", table_name="runs")
    op.drop_index("ix_runs_owner_kind", table_name="runs")
    op.create_index("ix_runs_owner_created", "runs", ["owner_id", "created_at", "id"])
    op.drop_table("metric_spans")
