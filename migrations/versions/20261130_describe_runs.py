"""Keep tags and notes of runs, and their newest figures where lists sort by them."""

import sqlalchemy as sa
from alembic import op

revision = "20261130_describe_runs"
down_revision = "20261129_vote_links"
branch_labels = None
depends_on = None

FIGURES = ("reward_gain", "win_rate", "kl")
NEWEST = "(SELECT value FROM metrics WHERE run_id = runs.id AND key = '{stage}/{name}' ORDER BY step DESC LIMIT 1)"
FILL = "UPDATE runs SET {name} = COALESCE({test}, {validation}) WHERE kind = 'training'"


def upgrade() -> None:
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("notes", sa.Text(), server_default="", nullable=False))
        for name in FIGURES:
            runs.add_column(sa.Column(name, sa.Float(precision=53), nullable=True))
    for name in FIGURES:
        test, validation = (NEWEST.format(stage=stage, name=name) for stage in ("test", "eval"))
        op.execute(FILL.format(name=name, test=test, validation=validation))
    for name in ("name", *FIGURES):
        op.create_index(f"ix_runs_by_{name}", "runs", ["owner_id", "kind", name, "id"])
    op.create_table(
        "run_tags",
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("tag", sa.String(length=40), nullable=False),
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_tags_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "tag", name=op.f("pk_run_tags")),
    )
    op.create_index("ix_run_tags_owner", "run_tags", ["owner_id", "tag", "run_id"])


def downgrade() -> None:
    op.drop_table("run_tags")
    for name in ("name", *FIGURES):
        op.drop_index(f"ix_runs_by_{name}", table_name="runs")
    with op.batch_alter_table("runs") as runs:
        for name in (*FIGURES, "notes"):
            runs.drop_column(name)
