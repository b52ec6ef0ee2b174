"""Keep readings, of models and data sets, among the previews."""

import sqlalchemy as sa
from alembic import op

revision = "20261129_readings"
down_revision = "20261127_index_the_line"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("previews") as previews:
        previews.alter_column("scoring_id", existing_type=sa.String(length=40), nullable=True)
        previews.add_column(sa.Column("model_id", sa.String(length=40), nullable=True))
        previews.add_column(sa.Column("dataset_id", sa.String(length=40), nullable=True))
        previews.create_foreign_key(op.f("fk_previews_model_id_models"), "models", ["model_id"], ["id"], ondelete="CASCADE")
        previews.create_foreign_key(
            op.f("fk_previews_dataset_id_datasets"), "datasets", ["dataset_id"], ["id"], ondelete="CASCADE"
        )
        previews.create_unique_constraint(op.f("uq_previews_model_id_digest"), ["model_id", "digest"])
        previews.create_index(op.f("ix_previews_dataset_id"), ["dataset_id"])


def downgrade() -> None:
    op.execute("DELETE FROM previews WHERE scoring_id IS NULL")
    with op.batch_alter_table("previews") as previews:
        previews.drop_index(op.f("ix_previews_dataset_id"))
        previews.drop_constraint(op.f("uq_previews_model_id_digest"), type_="unique")
        previews.drop_constraint(op.f("fk_previews_dataset_id_datasets"), type_="foreignkey")
        previews.drop_constraint(op.f("fk_previews_model_id_models"), type_="foreignkey")
        previews.drop_column("dataset_id")
        previews.drop_column("model_id")
        previews.alter_column("scoring_id", existing_type=sa.String(length=40), nullable=False)
