"""Keep what was done to accounts and by admins, disabled and removed users, and a name for each token."""

import sqlalchemy as sa
from alembic import op

from app.system.identifiers import new_id

TIME = sa.DateTime(timezone=True)

revision = "20261129_acts"
down_revision = "20261129_states"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("users") as users:
        users.add_column(sa.Column("disabled_at", TIME, nullable=True))
        users.add_column(sa.Column("removed_at", TIME, nullable=True))
    with op.batch_alter_table("tokens") as tokens:
        tokens.add_column(sa.Column("id", sa.String(length=40), nullable=True))
        tokens.add_column(sa.Column("address", sa.String(length=64), server_default="", nullable=False))
    name_tokens()
    with op.batch_alter_table("tokens") as tokens:
        tokens.alter_column("id", existing_type=sa.String(length=40), nullable=False)
        tokens.create_unique_constraint(op.f("uq_tokens_id"), ["id"])
    op.create_table(
        "acts",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("actor_id", sa.String(length=40), nullable=True),
        sa.Column("actor", sa.String(length=120), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=40), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_acts")),
    )
    for column in ("at", "actor_id", "user_id"):
        op.create_index(op.f(f"ix_acts_{column}"), "acts", [column])


def name_tokens() -> None:
    """Give each token that is there an id of its own, which says nothing of its digest."""
    tokens = sa.table("tokens", sa.column("digest", sa.String), sa.column("id", sa.String))
    connection = op.get_bind()
    for digest in connection.scalars(sa.select(tokens.c.digest)).all():
        connection.execute(sa.update(tokens).where(tokens.c.digest == digest).values(id=new_id("token")))


def downgrade() -> None:
    op.drop_table("acts")
    with op.batch_alter_table("tokens") as tokens:
        tokens.drop_constraint(op.f("uq_tokens_id"), type_="unique")
        tokens.drop_column("address")
        tokens.drop_column("id")
    with op.batch_alter_table("users") as users:
        users.drop_column("removed_at")
        users.drop_column("disabled_at")
