"""Data sets: their rows in the database, and pages of their examples from the Parquet file."""

import json
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.dataset import DatasetOrigin, DatasetState, Example, Message, Response
from app.domain.errors import NotFound
from app.domain.run import RunKind
from app.store.files import parquet
from app.store.files.files import Files
from app.store.sharing import find_visible, get_visible, visible_to
from app.store.tables import Answers, Comparison, Dataset, Run

EXAMPLES, SOURCE, PREVIEW = "examples.parquet", "source", "preview.json"


def get_dataset(session: Session, user_id: str, dataset_id: str) -> Dataset:
    """Return a data set that the user may see. Raises NotFound."""
    return get_visible(session, Dataset, user_id, dataset_id)


def find_origin(session: Session, user_id: str, dataset: Dataset) -> Answers | Comparison | None:
    """Return what a data set was made from in the studio, where that is still there and the user may see it."""
    if dataset.made_from is None:
        return None
    origin = DatasetOrigin.model_validate(dataset.made_from)
    if origin.answers:
        return find_visible(session, Answers, user_id, origin.answers)
    return find_visible(session, Comparison, user_id, origin.comparison or "")


def list_datasets(
    session: Session, user_id: str, *, state: str | None = None, mine: bool = False, after: str | None = None, limit: int = 50
) -> list[Dataset]:
    """Return the data sets that the user may see, or the user's own, newest first; `after` is the last id of the page before."""
    seen = visible_to(user_id, Dataset, mine=mine)
    query = select(Dataset).where(seen).order_by(Dataset.id.desc()).limit(limit)
    if state is not None:
        query = query.where(Dataset.state == state)
    if after is not None:
        query = query.where(Dataset.id < after)
    return list(session.scalars(query))


def list_processing(session: Session) -> list[tuple[str, str]]:
    """Return id and owner of all data sets that are being read."""
    query = select(Dataset.id, Dataset.owner_id).where(Dataset.state == DatasetState.PROCESSING).order_by(Dataset.id)
    return [(row.id, row.owner_id) for row in session.execute(query)]


def known_ids(session: Session) -> set[str]:
    """Return the ids of all data sets."""
    return set(session.scalars(select(Dataset.id)))


def list_runs_using(session: Session, dataset_id: str) -> list[str]:
    """Return the ids of the training runs that use a data set, whoever's, newest first."""
    uses = (Run.dataset_id == dataset_id, Run.kind == RunKind.TRAINING.value)
    return list(session.scalars(select(Run.id).where(*uses).order_by(Run.id.desc())))


def examples_path(files: Files, dataset_id: str) -> Path:
    """Return the data set's examples in the internal form."""
    return files.dataset_dir(dataset_id) / EXAMPLES


def source_path(files: Files, dataset_id: str) -> Path:
    """Return the file as it was uploaded."""
    return files.dataset_dir(dataset_id) / SOURCE


def preview(files: Files, dataset_id: str) -> dict[str, Any]:
    """Return what the mapping form shows: {"columns": [{"name", "type", "example"}], "rows": [{name: text}], "shapes":
    [shape]}.
    """
    files.bring(files.dataset_dir(dataset_id), [PREVIEW])
    try:
        found = json.loads((files.dataset_dir(dataset_id) / PREVIEW).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"columns": [], "rows": [], "shapes": []}
    return dict(found)


def read_examples(files: Files, dataset_id: str, after: int = -1, limit: int = 20) -> list[Example]:
    """Return the examples that follow number `after`, at most `limit` of them, fewer where they are long; none at the end.

    Only the row groups that hold them are read. Raises NotFound.
    """
    files.bring(files.dataset_dir(dataset_id), [EXAMPLES])
    try:
        rows = parquet.read_range(examples_path(files, dataset_id), max(after + 1, 0), limit)
    except FileNotFoundError:
        raise NotFound(f"The data set {dataset_id} has no examples yet.") from None
    return [as_example(row) for row in rows]


def as_example(row: dict[str, Any]) -> Example:
    """Return a row of the internal form."""
    return Example(
        example_id=row["example_id"],
        line=row["line"],
        prompt=tuple(Message(**with_fields(message)) for message in row["prompt"]),
        responses=tuple(Response(**with_fields(response)) for response in row["responses"]),
        tools=json.loads(row.get("tools") or "[]"),
        meta=json.loads(row["meta"] or "{}"),
    )


def with_fields(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message or response with its fields as an object; those of older files have none."""
    return {**message, "fields": json.loads(message.get("fields") or "{}")}
