"""Which files belong to the rows of one moment, while runs go on: what a backup copies.

Left out: what can be fetched again (hub), what is on its way (uploads, `.…` and `….part` files), the command line's
token, who runs an attempt, checkpoints of runs that succeeded, attempts later than the rows, and checkpoints of steps
that no kept record knows.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.run import RunState
from app.store.files.files import DEMONSTRATION, Files
from app.store.tables import Answers, Dataset, Model, PromptSet, Run

UNFINISHED = (".part", ".partial", ".tmp")
PROCESS_RECORD = "process.json"  # of a runner: where the backup is restored, its number belongs to another process
SPOOL = "events.jsonl"
TAIL_BYTES = 2**20


@dataclass(frozen=True)
class RunFacts:
    """What the rows say of a run when its files are chosen."""

    id: str
    state: str
    attempt: int
    spool_attempt: int  # whose spool is recorded on where the backup is restored
    step: int


@dataclass(frozen=True)
class Holdings:
    """The rows of one moment that have files."""

    dataset_ids: list[str]
    model_ids: list[str]
    runs: list[RunFacts]
    prompt_set_ids: list[str]
    answers_ids: list[str]


def find_holdings(session: Session) -> Holdings:
    """Return what the session's moment holds."""
    columns = (Run.id, Run.state, Run.attempt, Run.spool_attempt, Run.step)
    runs = [RunFacts(*row) for row in session.execute(select(*columns).order_by(Run.id))]
    datasets, models, prompt_sets, answers = (
        list(session.scalars(select(table.id).order_by(table.id))) for table in (Dataset, Model, PromptSet, Answers)
    )
    return Holdings(datasets, models, runs, prompt_sets, answers)


def list_files(files: Files, holdings: Holdings, *, with_scorings: bool) -> Iterator[Path]:
    """Yield the files to copy one by one, all but checkpoints."""
    folders = [files.root / DEMONSTRATION]
    folders += [files.dataset_dir(dataset_id) for dataset_id in holdings.dataset_ids]
    folders += [files.model_dir(model_id) for model_id in holdings.model_ids]
    folders += [files.prompt_set_dir(prompt_set_id) for prompt_set_id in holdings.prompt_set_ids]
    folders += [files.answers_dir(answers_id) for answers_id in holdings.answers_ids]
    folders += [files.scorings_dir] if with_scorings else []
    for run in holdings.runs:
        folders.append(files.artifacts_dir(run.id))
        folders += [files.attempt_dir(run.id, number) for number in range(1, run.attempt + 1)]
    for folder in folders:
        yield from walk(folder)


def walk(folder: Path) -> Iterator[Path]:
    """Yield the finished files below a folder, sorted; links are not followed, and a folder that goes is no error."""
    entries: list[os.DirEntry[str]] = []
    with suppress(OSError), os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith(".") or entry.name.endswith(UNFINISHED) or entry.name == PROCESS_RECORD:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from walk(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def whole_size(path: Path, file: IO[bytes]) -> int:
    """Return how much of an open file to copy: of a spool that grows, its whole lines; else all that is there."""
    size = os.fstat(file.fileno()).st_size
    if path.name != SPOOL:
        return size
    start = size
    while start > 0:
        begin = max(0, start - TAIL_BYTES)
        file.seek(begin)
        last = file.read(start - begin).rfind(b"\n")
        if last >= 0:
            file.seek(0)
            return begin + last + 1
        start = begin
    file.seek(0)
    return 0


def list_checkpoints(files: Files, run: RunFacts) -> list[Path]:
    """Return the run's checkpoints that may be kept, newest first.

    One of a later step than rows and spool know would leave a hole in the metrics of the run that resumes from it: copy the
    spool after the checkpoint, not before.
    """
    if run.state == RunState.SUCCEEDED:
        return []
    last_step = max(run.step, find_last_step(files.attempt_dir(run.id, run.spool_attempt) / SPOOL))
    found = [path for path in files.checkpoints_dir(run.id).glob("step-*") if path.name[5:].isdigit()]
    return sorted((path for path in found if int(path.name[5:]) <= last_step), key=lambda path: int(path.name[5:]), reverse=True)


def find_last_step(spool: Path) -> int:
    """Return the last optimizer step among the last lines of a spool; 0 when there is none."""
    with suppress(OSError), spool.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        for line in reversed(file.read().split(b"\n")):
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("kind") == "step":
                    return int(event["payload"]["step"])
    return 0


@contextmanager
def open_checkpoint(folder: Path) -> Iterator[dict[str, IO[bytes]] | None]:
    """Provide all files of a checkpoint, held open so that they stay whole when it is removed; None when it went, or lacks
    one.
    """
    with ExitStack() as stack:
        try:
            place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, place)
            opened = {name: stack.enter_context(_open_at(place, name)) for name in ["manifest.json", *_named(place)]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            yield None
            return
        yield opened


def _named(place: int) -> Iterable[str]:
    with _open_at(place, "manifest.json") as file:
        manifest: dict[str, Any] = json.load(file)
    return [name for name in manifest["files"] if "/" not in name]


def _open_at(place: int, name: str) -> IO[bytes]:
    return os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=place), "rb")
