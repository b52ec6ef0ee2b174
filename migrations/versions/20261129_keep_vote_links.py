"""Keep vote links, by which people without an account vote."""

import sqlalchemy as sa
from alembic import op

revision = "20261129_vote_links"
down_revision = "20261129_answers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vote_links",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("comparison_id", sa.String(length=40), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparisons.id"], name=op.f("fk_vote_links_comparison_id_comparisons"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vote_links")),
        sa.UniqueConstraint("digest", name=op.f("uq_vote_links_digest")),
    )
    op.create_index(op.f("ix_vote_links_comparison_id"), "vote_links", ["comparison_id"])
    with op.batch_alter_table("voters") as voters:
        voters.add_column(sa.Column("link_id", sa.String(length=40), nullable=True))
        voters.create_foreign_key(op.f("fk_voters_link_id_vote_links"), "vote_links", ["link_id"], ["id"], ondelete="SET NULL")
        voters.create_index(op.f("ix_voters_link_id"), ["link_id"])


def downgrade() -> None:
    op.execute("DELETE FROM voters WHERE link_id IS NOT NULL")
    with op.batch_alter_table("voters") as voters:
        voters.drop_index(op.f("ix_voters_link_id"))
        voters.drop_constraint(op.f("fk_voters_link_id_vote_links"), type_="foreignkey")
        voters.drop_column("link_id")
    op.drop_table("vote_links")
