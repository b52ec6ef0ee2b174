"""What can be done with data sets: upload, process, remap, delete.

The web's way: `upload` in the request's transaction; after its commit `process_within`, which waits a little for the child
that reads the file. Unreadable files leave nothing; longer ones go on in the background.
"""

import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePath
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from app.domain.dataset import ColumnMapping, DatasetOrigin, DatasetState, swap_sides
from app.domain.errors import Conflict, DatasetInvalid, NotFound, StudioError, TooLarge, Unavailable
from app.ingest.pool import IngestPool
from app.services.names import split_number, tell_apart
from app.services.sharing import refuse_used, take
from app.store import datasets, scorings
from app.store.database import Database, now
from app.store.files.files import Files, Upload
from app.store.files.object_folders import MARKER
from app.store.sharing import get_changeable
from app.store.signals.after_commit import after_commit
from app.store.tables import Dataset, Run, Scoring
from app.system.files import link_or_copy
from app.system.identifiers import new_id

T = TypeVar("T")

WAIT_SECONDS = 10.0
ORPHAN_SECONDS = 3600
log = logging.getLogger(__name__)


def upload(
    session: Session,
    files: Files,
    *,
    owner_id: str,
    name: str,
    filename: str,
    upload: Upload,
    mapping: ColumnMapping | None = None,
    private: bool = False,
    made_from: DatasetOrigin | None = None,
) -> Dataset:
    """Return a new data set out of a finished upload, in state processing. The file moves into its folder. Raises
    DatasetInvalid.
    """
    if upload.size == 0:
        raise DatasetInvalid.at("file", "The file is empty. Upload one that has rows.")
    filename = clean_name(PurePath(filename.replace("\\", "/")).name, 255) or "upload"
    title = clean_name(name, 120) or tell_apart(session, Dataset, owner_id, clean_name(filename, 120))
    dataset = Dataset(
        id=new_id("data"),
        owner_id=owner_id,
        private=private,
        name=title,
        state=DatasetState.PROCESSING,
        filename=filename,
        size_bytes=upload.size,
        sha256=upload.sha256,
        mapping=mapping.model_dump(mode="json") if mapping else None,
        audit=None,
        error=None,
        num_examples=0,
        made_from=made_from.model_dump(exclude_none=True) if made_from else None,
        created_at=now(session),
    )
    session.add(dataset)
    session.flush()
    upload.commit(datasets.source_path(files, dataset.id))
    return dataset


def clean_name(name: str, length: int) -> str:
    """Return a name without characters that can't be stored or shown, cut to a length."""
    shown = name.encode("utf-8", "replace").decode()
    return "".join(c for c in shown if c.isprintable()).strip()[:length].strip()


def process(database: Database, files: Files, pool: IngestPool, dataset_id: str) -> StudioError | None:
    """Have the file read and set the data set's state; the error to show when it can't be used.

    Does nothing when the data set is gone or not in state processing. May be repeated after a crash.
    """
    job = patiently(pool, partial(find_job, database, files, dataset_id))
    if job is None:
        return None
    reply = share(files, dataset_id, pool.run(job))
    return patiently(pool, partial(record_reply, database, files, dataset_id, reply))


def patiently(pool: IngestPool, action: Callable[[], T]) -> T:
    """Return the action's result, tried again for as long as database or store are away: nobody else would take it up.

    Raises Unavailable when the web is about to end; its next start goes on.
    """
    while True:
        try:
            return action()
        except Unavailable as error:
            log.warning("a data set waits: %s", error.detail)
            if pool.closes_within(error.retry_after_seconds):
                raise


def find_job(database: Database, files: Files, dataset_id: str) -> dict[str, Any] | None:
    """Return what the child is to read; None when there is nothing to do any more."""
    with database.reading() as session:
        dataset = session.get(Dataset, dataset_id)
        if dataset is None or dataset.state != DatasetState.PROCESSING:
            return None
        mapping = dataset.mapping
    source, target = datasets.source_path(files, dataset_id), datasets.examples_path(files, dataset_id)
    files.bring(source.parent, [datasets.SOURCE])
    clear_leftovers(source.parent)
    return {"source": str(source), "target": str(target), "mapping": mapping}


def record_reply(database: Database, files: Files, dataset_id: str, reply: dict[str, Any]) -> StudioError | None:
    """Write a child's reply into the data set's row, unless the row is gone or has moved on."""
    with database.writing() as session:
        dataset = session.get(Dataset, dataset_id, with_for_update=True)
        if dataset is None:
            files.remove(files.dataset_dir(dataset_id))
            return None
        if dataset.state != DatasetState.PROCESSING:
            return None
        return settle(dataset, reply)


def share(files: Files, dataset_id: str, reply: dict[str, Any]) -> dict[str, Any]:
    """Let all hosts see what was read, before the data set is ready; the reply, or an error where that can't be done."""
    if reply["status"] not in ("ready", "needs_mapping"):
        return reply
    try:
        files.share(files.dataset_dir(dataset_id))
    except Unavailable as error:
        return {"status": "failed", "error": {"code": error.code, "detail": error.detail, "problems": [], "extra": {}}}
    return reply


def clear_leftovers(folder: Path) -> None:
    """Remove what a reader that was killed left half-written."""
    for path in folder.glob(".*"):
        if path.name != MARKER:
            path.unlink(missing_ok=True)


def settle(dataset: Dataset, reply: dict[str, Any]) -> StudioError | None:
    """Write a child's reply into the row. A mapping that failed stays, for the mapping form it came from to show again."""
    if reply["status"] == "ready":
        dataset.state, dataset.error = DatasetState.READY, None
        dataset.mapping, dataset.audit = reply["mapping"], reply["audit"]
        dataset.num_examples = reply["audit"]["num_examples"]
        return None
    error = dict(reply["error"])
    if reply["status"] == "needs_mapping":
        dataset.state, dataset.error = DatasetState.NEEDS_MAPPING, error
        return None
    form = (dataset.error or {}).get("extra", {})
    dataset.state = DatasetState.NEEDS_MAPPING if form.get("columns") else DatasetState.FAILED
    dataset.error = {**error, "extra": {**form, **error["extra"]}}
    if error["code"] == "unavailable":
        return Unavailable(error["detail"], retry_after_seconds=60)
    kind = TooLarge if error["code"] == "too-large" else DatasetInvalid
    return kind(error["detail"], problems=error["problems"], extra=error["extra"])


def process_within(
    database: Database, files: Files, pool: IngestPool, owner_id: str, dataset_id: str, wait_seconds: float = WAIT_SECONDS
) -> None:
    """Process in the background, when it is the owner's turn, and wait for it, at most so long; then it goes on alone.

    Raises DatasetInvalid or TooLarge when the file can't be used; a data set that was never usable is gone then, with its files.
    """
    future = pool.submit(owner_id, process, database, files, pool, dataset_id)
    try:
        error = future.result(wait_seconds)
    except TimeoutError:
        return
    if error is not None:
        discard_failed(database, files, dataset_id)
        raise error


def discard_failed(database: Database, files: Files, dataset_id: str) -> None:
    """Remove a data set in state failed, row and files."""
    with database.writing() as session:
        dataset = session.get(Dataset, dataset_id)
        if dataset is not None and dataset.state == DatasetState.FAILED:
            remove(session, files, dataset)


def remap(session: Session, files: Files, user_id: str, dataset_id: str, mapping: ColumnMapping) -> Dataset:
    """Return the data set with (another) mapping; call `process_within` for it after the commit.

    One that runs or scorings use stays as it is: what is returned is then a new state of it, another data set of the same file.
    Raises NotFound, Forbidden, Conflict.
    """
    dataset = take(session, user_id, Dataset, dataset_id, "mapped anew")
    if dataset.state == DatasetState.PROCESSING:
        raise Conflict("The data set is still being read. Wait until it is done.")
    if datasets.list_runs_using(session, dataset_id) or scorings.list_using_dataset(session, dataset_id):
        return derive(session, files, dataset, mapping)
    dataset.state, dataset.mapping = DatasetState.PROCESSING, mapping.model_dump(mode="json")
    dataset.audit, dataset.num_examples = None, 0
    dataset.error = {
        **(dataset.error or {}),
        "extra": datasets.preview(files, dataset_id),
    }  # a failing mapping returns to its form
    examples = datasets.examples_path(files, dataset_id)
    after_commit(session, ("remap dataset", dataset_id), lambda: examples.unlink(missing_ok=True))
    return dataset


def derive(session: Session, files: Files, dataset: Dataset, mapping: ColumnMapping) -> Dataset:
    """Return a new state of a data set, in state processing: its file under another mapping. Raises NotFound without the file."""
    files.bring(files.dataset_dir(dataset.id), [datasets.SOURCE])
    source = datasets.source_path(files, dataset.id)
    if not source.is_file():
        raise NotFound(f"The file of {dataset.name} is not there any more. Upload it again.")
    derived = Dataset(
        id=new_id("data"),
        owner_id=dataset.owner_id,
        private=dataset.private,
        name=next_name(dataset.name),
        state=DatasetState.PROCESSING,
        filename=dataset.filename,
        size_bytes=dataset.size_bytes,
        sha256=dataset.sha256,
        mapping=mapping.model_dump(mode="json"),
        audit=None,
        error=None,
        num_examples=0,
        previous_id=dataset.id,
        made_from=dataset.made_from,
        created_at=now(session),
    )
    session.add(derived)
    session.flush()
    target = datasets.source_path(files, derived.id)
    target.parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(source, target)
    return derived


def next_name(name: str) -> str:
    """Return the name of a data set's next state: "pairs (2)" after "pairs"."""
    title, number = split_number(name)
    return f"{title[:110]} ({2 if number is None else number + 1})"


def swap(session: Session, files: Files, user_id: str, dataset_id: str) -> Dataset:
    """Return the data set with chosen and rejected in each other's place, as `remap` does. Raises as it does."""
    dataset = get_changeable(session, Dataset, user_id, dataset_id)
    swapped = swap_sides(ColumnMapping.model_validate(dataset.mapping)) if dataset.mapping else None
    if swapped is None:
        raise Conflict(
            "This data set has no two sides to swap: its mapping names no chosen and rejected, and no label. Map it another way."
        )
    return remap(session, files, user_id, dataset_id, swapped)


def delete(session: Session, files: Files, user_id: str, dataset_id: str) -> None:
    """Remove a data set with its files. Raises NotFound, Forbidden, Conflict when a run or a scoring uses it."""
    dataset = take(session, user_id, Dataset, dataset_id, "deleted")
    runs, scored = datasets.list_runs_using(session, dataset_id), scorings.list_using_dataset(session, dataset_id)
    refuse_used(session, user_id, "this data set", [("run", Run, runs), ("scoring", Scoring, scored)])
    remove(session, files, dataset)


def remove(session: Session, files: Files, dataset: Dataset) -> None:
    """Delete the row, and after the commit the folder."""
    folder = files.dataset_dir(dataset.id)
    session.delete(dataset)
    after_commit(session, ("remove dataset", dataset.id), lambda: files.remove(folder))


def resume_processing(database: Database, files: Files, pool: IngestPool) -> int:
    """At the web's start: process again what was left half-way, remove folders without a row. How many were resumed."""
    with database.reading() as session:
        waiting, known = datasets.list_processing(session), datasets.known_ids(session)
    for dataset_id, owner_id in waiting:
        pool.submit(owner_id, process, database, files, pool, dataset_id)
    sweep_folders(files.root / "datasets", known)
    return len(waiting)


def sweep_folders(parent: Path, known: set[str]) -> None:
    """Remove folders that no row knows and that are too old to belong to an upload under way."""
    if not parent.is_dir():
        return
    for folder in parent.iterdir():
        if folder.name not in known and time.time() - folder.stat().st_mtime > ORPHAN_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
            log.info("removed the orphaned folder %s", folder.name)
