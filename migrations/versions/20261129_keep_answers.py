"""Keep prompt sets, answers and what judges say of them; comparisons and votes; runs that follow no recipe."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

TIME = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(JSONB(), "postgresql")

revision = "20261129_answers"
down_revision = "20261129_acts"
branch_labels = None
depends_on = None


def column(name: str, length: int = 40, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=nullable)


def points(table: str, name: str, to: str, **options: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([name], [f"{to}.id"], name=op.f(f"fk_{table}_{name}_{to}"), **options)


def upgrade() -> None:
    create_answers()
    create_votes()
    with op.batch_alter_table("runs") as runs:
        runs.alter_column("dataset_id", existing_type=sa.String(length=40), nullable=True)
        runs.alter_column("policy_id", existing_type=sa.String(length=40), nullable=True)
        runs.add_column(column("answers_id", nullable=True))
        runs.create_foreign_key(op.f("fk_runs_answers_id_answers"), "answers", ["answers_id"], ["id"], ondelete="CASCADE")
        runs.create_index(op.f("ix_runs_answers_id"), ["answers_id"])


def create_answers() -> None:
    op.create_table(
        "prompt_sets",
        column("id"), column("owner_id"), column("name", 120), column("sha256", 64),
        sa.Column("num_prompts", sa.Integer(), nullable=False),
        sa.Column("facts", JSON, nullable=False),
        sa.Column("source", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        points("prompt_sets", "owner_id", "users"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompt_sets")),
    )  # fmt: skip
    op.create_table(
        "answers",
        column("id"), column("owner_id"), column("name", 120), column("fingerprint", 64), column("prompt_set_id"),
        sa.Column("model", JSON, nullable=False),
        column("model_id", nullable=True), column("model_run_id", nullable=True), column("model_name", 200),
        sa.Column("num_draws", sa.Integer(), nullable=False),
        sa.Column("sampling", JSON, nullable=False),
        column("run_id", nullable=True),
        sa.Column("facts", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("used_at", TIME, nullable=False),
        points("answers", "owner_id", "users"),
        points("answers", "prompt_set_id", "prompt_sets"),
        points("answers", "model_id", "models"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answers")),
        sa.UniqueConstraint("owner_id", "fingerprint", name=op.f("uq_answers_owner_id_fingerprint")),
    )  # fmt: skip
    op.create_table(
        "judgements",
        column("id"), column("answers_id"), column("key", 64), column("kind", 16), column("name", 200),
        sa.Column("judge", JSON, nullable=False),
        column("model_id", nullable=True), column("run_id", nullable=True),
        sa.Column("facts", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        points("judgements", "answers_id", "answers", ondelete="CASCADE"),
        points("judgements", "model_id", "models"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judgements")),
        sa.UniqueConstraint("answers_id", "key", name=op.f("uq_judgements_answers_id_key")),
    )  # fmt: skip
    indexes = {
        "prompt_sets": ("owner_id",),
        "answers": ("prompt_set_id", "model_id", "model_run_id", "run_id"),
        "judgements": ("model_id", "run_id"),
    }
    for table, names in indexes.items():
        for name in names:
            op.create_index(op.f(f"ix_{table}_{name}"), table, [name])


def create_votes() -> None:
    op.create_table(
        "comparisons",
        column("id"), column("owner_id"), column("name", 120), column("prompt_set_id"),
        sa.Column("answers_ids", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        points("comparisons", "owner_id", "users"),
        points("comparisons", "prompt_set_id", "prompt_sets"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparisons")),
    )  # fmt: skip
    op.create_table(
        "voters",
        column("id"), column("comparison_id"), column("user_id", nullable=True), column("name", 80),
        column("digest", 64, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        points("voters", "comparison_id", "comparisons", ondelete="CASCADE"),
        points("voters", "user_id", "users"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_voters")),
        sa.UniqueConstraint("comparison_id", "user_id", name=op.f("uq_voters_comparison_id_user_id")),
        sa.UniqueConstraint("digest", name=op.f("uq_voters_digest")),
    )  # fmt: skip
    op.create_table(
        "votes",
        column("id"), column("comparison_id"), column("voter_id"),
        sa.Column("prompt", sa.Integer(), nullable=False),
        column("pair", 100), column("left_id"),
        sa.Column("left_draw", sa.Integer(), nullable=False),
        column("right_id"),
        sa.Column("right_draw", sa.Integer(), nullable=False),
        column("choice", 16),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.Column("at", TIME, nullable=False),
        points("votes", "comparison_id", "comparisons", ondelete="CASCADE"),
        points("votes", "voter_id", "voters", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_votes")),
        sa.UniqueConstraint(
            "comparison_id", "voter_id", "prompt", "pair", name=op.f("uq_votes_comparison_id_voter_id_prompt_pair")
        ),
    )  # fmt: skip
    for table, name in (
        ("comparisons", "owner_id"), ("comparisons", "prompt_set_id"), ("voters", "comparison_id"), ("votes", "voter_id"),
    ):  # fmt: skip
        op.create_index(op.f(f"ix_{table}_{name}"), table, [name])


def downgrade() -> None:
    op.execute("DELETE FROM runs WHERE kind = 'answers'")
    with op.batch_alter_table("runs") as runs:
        runs.drop_index(op.f("ix_runs_answers_id"))
        runs.drop_constraint(op.f("fk_runs_answers_id_answers"), type_="foreignkey")
        runs.drop_column("answers_id")
        runs.alter_column("policy_id", existing_type=sa.String(length=40), nullable=False)
        runs.alter_column("dataset_id", existing_type=sa.String(length=40), nullable=False)
    for table in ("votes", "voters", "comparisons", "judgements", "answers", "prompt_sets"):
        op.drop_table(table)
