"""Let members see each other's things unless they are private, and previews know who asked.

What is there when this is done was its owner's alone: it stays so where there is more than one user.
"""

import sqlalchemy as sa
from alembic import op

revision = "20261130_sharing"
down_revision = "20261130_chats"
branch_labels = None
depends_on = None

NOUNS = ("datasets", "models", "runs", "scorings", "sweeps", "prompt_sets", "answers", "comparisons")
SORTED_BY = ("name", "reward_gain", "win_rate", "kl")
ASKER = """UPDATE previews SET asker_id = COALESCE(
    (SELECT owner_id FROM scorings WHERE scorings.id = previews.scoring_id),
    (SELECT owner_id FROM models WHERE models.id = previews.model_id))"""


def upgrade() -> None:
    num_users = sa.select(sa.func.count()).select_from(sa.table("users")).scalar_subquery()
    for noun in NOUNS:
        with op.batch_alter_table(noun) as changed:
            changed.add_column(sa.Column("private", sa.Boolean(), server_default=sa.false(), nullable=False))
        op.execute(sa.update(sa.table(noun, sa.column("private", sa.Boolean))).values(private=True).where(num_users > 1))
    op.create_index(op.f("ix_scorings_fingerprint"), "scorings", ["fingerprint"])
    for name in SORTED_BY:
        op.drop_index(f"ix_runs_by_{name}", table_name="runs")
        op.create_index(f"ix_runs_by_{name}", "runs", ["kind", name, "id"])
    op.drop_index("ix_run_tags_owner", table_name="run_tags")
    op.create_index("ix_run_tags_tag", "run_tags", ["tag", "run_id"])
    op.create_index("ix_runs_kind", "runs", ["kind", "id"])
    op.create_index("ix_runs_kind_state", "runs", ["kind", "state", "id"])
    with op.batch_alter_table("previews") as previews:
        previews.add_column(sa.Column("asker_id", sa.String(length=40), nullable=True))
        previews.create_foreign_key(op.f("fk_previews_asker_id_users"), "users", ["asker_id"], ["id"])
    op.execute(ASKER)
    with op.batch_alter_table("previews") as previews:
        previews.alter_column("asker_id", existing_type=sa.String(length=40), nullable=False)


def downgrade() -> None:
    with op.batch_alter_table("previews") as previews:
        previews.drop_constraint(op.f("fk_previews_asker_id_users"), type_="foreignkey")
        previews.drop_column("asker_id")
    op.drop_index("ix_runs_kind_state", table_name="runs")
    op.drop_index("ix_runs_kind", table_name="runs")
    op.drop_index("ix_run_tags_tag", table_name="run_tags")
    op.create_index("ix_run_tags_owner", "run_tags", ["owner_id", "tag", "run_id"])
    for name in SORTED_BY:
        op.drop_index(f"ix_runs_by_{name}", table_name="runs")
        op.create_index(f"ix_runs_by_{name}", "runs", ["owner_id", "kind", name, "id"])
    op.drop_index(op.f("ix_scorings_fingerprint"), table_name="scorings")
    for noun in NOUNS:
        with op.batch_alter_table(noun) as changed:
            changed.drop_column("private")
