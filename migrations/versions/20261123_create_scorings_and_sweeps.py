"""Create scorings, previews and sweeps; tie runs to them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261123_scorings_sweeps"
down_revision = "20261123_first_tables"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "scorings",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("settings", JSON, nullable=False),
        sa.Column("dataset_id", sa.String(length=40), nullable=False),
        sa.Column("policy_id", sa.String(length=40), nullable=False),
        sa.Column("reward_id", sa.String(length=40), nullable=True),
        sa.Column("run_id", sa.String(length=40), nullable=True),
        sa.Column("facts", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("used_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_scorings_owner_id_users")),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_scorings_dataset_id_datasets")),
        sa.ForeignKeyConstraint(["policy_id"], ["models.id"], name=op.f("fk_scorings_policy_id_models")),
        sa.ForeignKeyConstraint(["reward_id"], ["models.id"], name=op.f("fk_scorings_reward_id_models")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scorings")),
        sa.UniqueConstraint("owner_id", "fingerprint", name=op.f("uq_scorings_owner_id_fingerprint")),
    )
    for column in ("dataset_id", "policy_id", "reward_id", "run_id"):
        op.create_index(f"ix_scorings_{column}", "scorings", [column])
    op.create_table(
        "previews",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("scoring_id", sa.String(length=40), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("job", JSON, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("worker_id", sa.String(length=120), nullable=True),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("result", JSON, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["scoring_id"], ["scorings.id"], name=op.f("fk_previews_scoring_id_scorings"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_previews")),
        sa.UniqueConstraint("scoring_id", "digest", name=op.f("uq_previews_scoring_id_digest")),
    )
    op.create_index("ix_previews_waiting", "previews", ["state", "created_at"])
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("variants", JSON, nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("idempotency_digest", sa.String(length=64), nullable=True),
        sa.Column("stopped_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_sweeps_owner_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
        sa.UniqueConstraint("owner_id", "idempotency_key", name=op.f("uq_sweeps_owner_id_idempotency_key")),
    )
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("kind", sa.String(length=16), nullable=False, server_default="training"))
        runs.add_column(sa.Column("sweep_id", sa.String(length=40), nullable=True))
        runs.add_column(sa.Column("variant", sa.Integer(), nullable=True))
        runs.add_column(sa.Column("scoring_id", sa.String(length=40), nullable=True))
        runs.create_foreign_key(op.f("fk_runs_sweep_id_sweeps"), "sweeps", ["sweep_id"], ["id"])
        runs.create_foreign_key(op.f("fk_runs_scoring_id_scorings"), "scorings", ["scoring_id"], ["id"], ondelete="SET NULL")
        runs.create_index("ix_runs_sweep_id", ["sweep_id"])
        runs.create_index("ix_runs_scoring_id", ["scoring_id"])


def downgrade() -> None:
    with op.batch_alter_table("runs") as runs:
        runs.drop_index("ix_runs_scoring_id")
        runs.drop_index("ix_runs_sweep_id")
        runs.drop_constraint(op.f("fk_runs_scoring_id_scorings"), type_="foreignkey")
        runs.drop_constraint(op.f("fk_runs_sweep_id_sweeps"), type_="foreignkey")
        for column in ("scoring_id", "variant", "sweep_id", "kind"):
            runs.drop_column(column)
    for table in ("sweeps", "previews", "scorings"):
        op.drop_table(table)
