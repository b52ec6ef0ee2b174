"""What runs are made of: data sets, models, and settings that are kept to begin launches from."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.owned import Owned
from app.store.tables.schema import Base, BigInt


class Dataset(Owned, Base):
    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(120))
    state: Mapped[str] = mapped_column(String(20), index=True)  # DatasetState
    filename: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInt)
    sha256: Mapped[str] = mapped_column(String(64))
    mapping: Mapped[dict[str, Any] | None]  # ColumnMapping
    audit: Mapped[dict[str, Any] | None]  # Audit, once ready
    error: Mapped[dict[str, Any] | None]  # {"code", "detail", "problems", "extra"}
    num_examples: Mapped[int] = mapped_column(BigInt, default=0)
    previous_id: Mapped[str | None] = mapped_column(String(40))  # the data set whose file this maps another way, if any
    made_from: Mapped[dict[str, Any] | None]  # app.domain.dataset.DatasetOrigin, of one that was made in the studio
    created_at: Mapped[datetime]


class Model(Owned, Base):
    __tablename__ = "models"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(16))  # "policy" | "reward"
    source: Mapped[str] = mapped_column(String(16))  # "hub" | "folder" | "run"
    path: Mapped[str] = mapped_column(String(1000))  # hub name; a folder's place in the data folder, or its absolute path
    revision: Mapped[str | None] = mapped_column(String(120))
    facts: Mapped[dict[str, Any]]  # architecture, num_parameters, vocab_size, context, chat template, sha256 …
    created_at: Mapped[datetime]


class RecipeTemplate(Owned, Base):
    """Settings kept under a name, to begin launches from."""

    __tablename__ = "recipe_templates"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(120))
    recipe: Mapped[dict[str, Any]]  # a Recipe, with or without its data set and models
    created_at: Mapped[datetime]
