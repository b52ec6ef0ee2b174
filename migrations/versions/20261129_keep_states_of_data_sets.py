"""Keep which data set's file a data set maps another way."""

import sqlalchemy as sa
from alembic import op

revision = "20261129_states"
down_revision = "20261129_readings"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("datasets") as datasets:
        datasets.add_column(sa.Column("previous_id", sa.String(length=40), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("datasets") as datasets:
        datasets.drop_column("previous_id")
