"""Prompt sets, one model's answers to one of them, and what judges say of the answers."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.owned import Owned
from app.store.tables.schema import Base


class PromptSet(Owned, Base):
    """Prompts that models answer, in prompt_sets/<id>/prompts.jsonl."""

    MADE_OF = {"source.dataset_id": "datasets", "source.run_id": "runs"}  # noqa: RUF012

    __tablename__ = "prompt_sets"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(120))
    sha256: Mapped[str] = mapped_column(String(64))  # of the file
    num_prompts: Mapped[int] = mapped_column(Integer)
    facts: Mapped[dict[str, Any]]  # app.domain.answering.prompt_set.PromptSetFacts
    source: Mapped[dict[str, Any]]  # where the prompts are from: PromptOrigin
    created_at: Mapped[datetime]


class Answers(Owned, Base):
    """One model's answers to one prompt set, in answers/<id>/: made by runs of kind answers, or uploaded."""

    MADE_OF = {"prompt_set_id": "prompt_sets", "model_id": "models", "model_run_id": "runs"}  # noqa: RUF012

    __tablename__ = "answers"
    __table_args__ = (UniqueConstraint("owner_id", "fingerprint"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    fingerprint: Mapped[str] = mapped_column(String(64))  # of the prompt set's and the model's contents, and how it is asked
    prompt_set_id: Mapped[str] = mapped_column(ForeignKey("prompt_sets.id"), index=True)
    model: Mapped[dict[str, Any]]  # app.domain.answering.answers.ModelChoice: which model answers
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"), index=True)  # itself, or what its run began from
    model_run_id: Mapped[str | None] = mapped_column(String(40), index=True)  # whose result or checkpoint it is; no foreign key
    model_name: Mapped[str] = mapped_column(String(200))
    num_draws: Mapped[int] = mapped_column(Integer)  # answers to each prompt
    sampling: Mapped[dict[str, Any]]  # SamplingSettings
    run_id: Mapped[str | None] = mapped_column(String(40), index=True)  # the run that makes them; no foreign key
    facts: Mapped[dict[str, Any] | None]  # AnswersFacts, once all are there
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]


class Judgement(Base):
    """What one judge says of answers: wanted, and with facts made."""

    __tablename__ = "judgements"
    __table_args__ = (UniqueConstraint("answers_id", "key"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    answers_id: Mapped[str] = mapped_column(ForeignKey("answers.id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(String(64))  # the same for the same judge, whatever it judges; its folder's name
    kind: Mapped[str] = mapped_column(String(16))  # reward | length | exact | pattern
    name: Mapped[str] = mapped_column(String(200))
    judge: Mapped[dict[str, Any]]  # app.domain.answering.judge.Judge
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"), index=True)
    run_id: Mapped[str | None] = mapped_column(String(40), index=True)  # the run that asks it; no foreign key
    facts: Mapped[dict[str, Any] | None]  # JudgementFacts, once all answers are judged
    created_at: Mapped[datetime]
