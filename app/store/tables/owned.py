"""What belongs to users."""

from typing import ClassVar

from sqlalchemy import Boolean, ForeignKey, false, select
from sqlalchemy.orm import Mapped, column_property, declared_attr, mapped_column

from app.store.tables.accounts import User


class Owned:
    """What belongs to a user: all members see it, unless it or what it is made of is private. Rule: app.store.sharing."""

    # What names the things it is made of, and their tables: a column, a JSON column's "column.key", or all of a list "column.*".
    MADE_OF: ClassVar[dict[str, str]] = {}

    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    private: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())

    @declared_attr
    def owner(self) -> Mapped[str]:
        """Return the owner's name, which each row is read with."""
        return column_property(select(User.name).where(User.id == self.owner_id).scalar_subquery())


INGREDIENTS = {"dataset_id": "datasets", "policy_id": "models", "reward_id": "models"}
