"""A page of a list: the rows, and where the next page begins."""

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

T = TypeVar("T")
Row = TypeVar("Row")

MAX_SEQ = 2**62

Limit = Annotated[int, Query(ge=1, le=200, description="Rows of a page.")]
After = Annotated[
    str | None, Query(max_length=80, description="`next` of the page before.", examples=["run_01kb4y7v3m2q8d5n6c9t0r1x2z"])
]
AfterSeq = Annotated[int, Query(ge=0, le=MAX_SEQ, description="The seq of the last entry seen.")]


class Page(BaseModel, Generic[T]):
    """Rows in order; `next` is null on the last page."""

    items: list[T]
    next: str | None = Field(description="Pass it as `after` to get the next page.")


def to_page(rows: Sequence[Row], limit: int, view: Callable[[Row], T], key: Callable[[Row], str]) -> Page[T]:
    """Return a page from up to `limit` + 1 rows: the one too many only tells that there are more."""
    shown = rows[:limit]
    return Page(items=[view(row) for row in shown], next=key(shown[-1]) if len(rows) > limit else None)
