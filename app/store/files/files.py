"""The files: the only place that knows where things lie in the data folder. Writes are atomic and fsynced.

hub/  scorings/<key>/  models/<id>/  uploads/<random>.part  datasets/<id>/{source,examples.parquet}
prompt_sets/<id>/prompts.jsonl  answers/<id>/… (app.domain.answering.layout)
runs/<id>/checkpoints/…  artifacts/…  attempts/<n>/{spec.json,events.jsonl,log.txt,cancel}
"""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from app.domain.errors import NotFound, Unavailable
from app.system.files import remove_tree, sync, writing

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,80}")
DEMONSTRATION = "demonstration"  # what `varstudio demo` makes, below the root
ABANDONED_SECONDS = 7 * 86400.0
DISK_FULL = "The disk is full: free some space on the studio's machine, then try again."


class Files:
    """Paths below one root. An identifier that isn't one is NotFound, so no name can lead out of its folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def name_of(self, path: Path) -> str:
        """Return how a path is kept: relative where it lies in the data folder, so that the folder may be moved."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def place_of(self, name: str) -> Path:
        """Return where a path lies that was kept by `name_of`, or as a whole."""
        return self.root / name

    @property
    def hub_dir(self) -> Path:
        return self.root / "hub"

    @property
    def scorings_dir(self) -> Path:
        return self.root / "scorings"

    def scoring_dir(self, key: str) -> Path:
        return self.scorings_dir / _identifier(key)

    @property
    def verdicts_dir(self) -> Path:
        """Where it is kept what language models have said as judges, by what they were asked."""
        return self.root / "verdicts"

    @property
    def uploads_dir(self) -> Path:
        return self.root / "uploads"

    def dataset_dir(self, dataset_id: str) -> Path:
        return self.root / "datasets" / _identifier(dataset_id)

    def model_dir(self, model_id: str) -> Path:
        return self.root / "models" / _identifier(model_id)

    def prompt_set_dir(self, prompt_set_id: str) -> Path:
        return self.root / "prompt_sets" / _identifier(prompt_set_id)

    def answers_dir(self, answers_id: str) -> Path:
        return self.root / "answers" / _identifier(answers_id)

    def scores_dir(self, answers_id: str, judge_key: str) -> Path:
        """Return where one judge's scores of answers are."""
        return self.answers_dir(answers_id) / "scores" / _identifier(judge_key)

    def comparison_dir(self, comparison_id: str) -> Path:
        """Return where is kept what was computed of a comparison; it can be computed again."""
        return self.root / "comparisons" / _identifier(comparison_id)

    def run_dir(self, run_id: str) -> Path:
        return self.root / "runs" / _identifier(run_id)

    def attempt_dir(self, run_id: str, number: int) -> Path:
        return self.run_dir(run_id) / "attempts" / str(int(number))

    def checkpoints_dir(self, run_id: str) -> Path:
        return self.run_dir(run_id) / "checkpoints"

    def artifacts_dir(self, run_id: str) -> Path:
        return self.run_dir(run_id) / "artifacts"

    def artifact_path(self, run_id: str, name: str) -> Path:
        """Return the file of an artifact; `name` is its path inside the artifacts folder.

        Raises NotFound when it isn't there, isn't a file, or would lead out of the folder (`..`, absolute, a link).
        """
        folder = self.artifacts_dir(run_id).resolve()
        missing = NotFound(f"Run {run_id} has no artifact {name!r}.")
        if "\0" in name:
            raise missing
        try:
            path = (folder / name).resolve()
            if not path.is_relative_to(folder) or not path.is_file():
                raise missing
        except OSError as error:  # a name longer than the file system takes
            raise missing from error
        return path

    def list_there(self, run_id: str, names: Collection[str]) -> set[str]:
        """Those of these artifacts that can be downloaded."""
        return {name for name in names if self._has_artifact(run_id, name)}

    def _has_artifact(self, run_id: str, name: str) -> bool:
        try:
            self.artifact_path(run_id, name)
        except NotFound:
            return False
        return True

    def result_dir(self, run_id: str) -> Path:
        """Return the folder of the model that a run has trained; it may not be there."""
        return self.artifacts_dir(run_id) / "model"

    def log_path(self, run_id: str, number: int) -> Path:
        """Return what an attempt's runner printed; it may not be there."""
        return self.attempt_dir(run_id, number) / "log.txt"

    def bring(self, folder: Path, only: Collection[str] | None = None) -> None:
        """Have a folder here as all see it, or these files of it: here it is, the data folder is the one that all share."""

    def share(self, folder: Path) -> None:
        """Let all see a folder that was filled here: they do already."""

    def remove(self, folder: Path) -> None:
        """Remove a folder for all; one that isn't there is no error."""
        remove_tree(folder)

    def open_upload(self) -> "Upload":
        """Return a new temporary file to stream an upload into."""
        self.uploads_dir.mkdir(parents=True, exist_ok=True)
        return Upload(self.uploads_dir / f"{secrets.token_hex(16)}.part")

    def sweep_uploads(self) -> int:
        """Remove what died half-way; an upload that is being written holds a lock and stays. Returns how many went."""
        num_removed = 0
        for path in self.uploads_dir.glob("*.part"):
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                num_removed += 1
        return num_removed

    def sweep_scorings(self) -> int:
        """Remove what scoring passes left half-way and nobody has gone on with for days. Returns how many went."""
        num_removed = 0
        for path in self.scorings_dir.glob("*.partial"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    remove_tree(path)
                    num_removed += 1
        return num_removed


class Upload:
    """A file on its way in: counted and hashed while it is streamed, then moved into place as a whole.

        with files.open_upload() as upload:
            upload.write(chunk)
            upload.commit(files.dataset_dir(id) / "source")

    Leaving the block without a commit discards it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        with disk_full_is_unavailable():
            self._file = path.open("xb")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    @property
    def sha256(self) -> str:
        """Hex digest of what was written so far."""
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Append a piece. Raises Unavailable when the disk is full."""
        with disk_full_is_unavailable():
            self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    def flush(self) -> None:
        """Make what was written visible to other processes, on the disk."""
        with disk_full_is_unavailable():
            self._file.flush()
            os.fsync(self._file.fileno())

    def commit(self, to: Path) -> None:
        """Move the finished file to `to`, which is either whole or not there."""
        self.flush()
        to.parent.mkdir(parents=True, exist_ok=True)
        self.path.replace(to)
        self._file.close()
        sync(to.parent)

    def discard(self) -> None:
        """Throw it away; nothing happens after a commit."""
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # closing flushes, which a full disk refuses; the file is gone anyway
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.discard()


def make_root(root: Path) -> None:
    """Make the data folder where it is missing, for its owner alone; raises Unavailable when nothing can be written there."""
    reason = ""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
    if not reason and not os.access(root, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        reason = "Permission denied"
    if reason:
        raise Unavailable(
            f"Nothing can be kept in the data folder {root} ({reason}). Give this user the right to write there, "
            "or choose another folder: STUDIO_DATA_DIR."
        )


def write_atomic(path: Path, content: bytes) -> None:
    """Write the whole file or nothing. Raises Unavailable when the disk is full."""
    with disk_full_is_unavailable(), writing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def disk_full_is_unavailable() -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into a sentence for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(DISK_FULL, retry_after_seconds=60) from error
        raise


def _identifier(value: str) -> str:
    if not IDENTIFIER.fullmatch(value):
        raise NotFound(f"There is nothing with the id {value!r}.")
    return value
