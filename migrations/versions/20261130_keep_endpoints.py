"""Keep endpoints: OpenAI-compatible servers whose models answer and judge."""

import sqlalchemy as sa
from alembic import op

revision = "20261130_endpoints"
down_revision = "20261130_describe_runs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "endpoints",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("address", sa.String(length=500), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("sealed_key", sa.Text(), nullable=True),
        sa.Column("at_once", sa.Integer(), nullable=False),
        sa.Column("tokens_per_minute", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoints")),
        sa.UniqueConstraint("name", name=op.f("uq_endpoints_name")),
    )


def downgrade() -> None:
    op.drop_table("endpoints")
