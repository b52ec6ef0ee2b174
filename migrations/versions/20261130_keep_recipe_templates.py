"""Keep recipe templates: settings under a name, to begin launches from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "20261130_recipe_templates"
down_revision = "20261130_sharing"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recipe_templates",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("recipe", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("private", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_recipe_templates_owner_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recipe_templates")),
    )
    op.create_index(op.f("ix_recipe_templates_owner_id"), "recipe_templates", ["owner_id"])


def downgrade() -> None:
    op.drop_table("recipe_templates")
