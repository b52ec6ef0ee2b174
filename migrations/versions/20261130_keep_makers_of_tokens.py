"""Keep the API token that made a token, a login link or a session, which end with it."""

import sqlalchemy as sa
from alembic import op

revision = "20261130_token_makers"
down_revision = "20261130_next_recipes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("tokens") as tokens:
        tokens.add_column(sa.Column("maker_id", sa.String(length=40), server_default="", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("tokens") as tokens:
        tokens.drop_column("maker_id")
