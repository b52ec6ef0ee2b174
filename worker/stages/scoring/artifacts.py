"""What is kept of a scoring: folders named by their content, each one tensor file with a manifest that says what it is.

scorings/<key>/<file>.safetensors  manifest.json     a whole artifact: the key covers everything it depends on
scorings/.<key>.lock                                 held by the process that is making it; the others wait, then find it
A folder appears whole, by a rename. One that is damaged is removed, and made again by whoever needs it.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from app.system.files import filling, hash_file, sync, writing

VERSION = 2
WAIT_SECONDS = 0.2
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # what a file system without locks says


@dataclass(frozen=True)
class ScoreManifest:
    """What an artifact holds. `facts`: what it depends on, by name, for people and for reasons of a miss.

    extent        own: each response with its own prompt. cross: every pair of a batch. early: every pair, but those with a
                  certificate were dropped half-way.
    num_pairs     pairs the extent spans; num_scored of them were scored in full
    smallest_lambda  extent early: its certificates hold for this λ, in units of the raw reward, and for every larger one
    """

    key: str
    kind: str
    facts: Mapping[str, str]
    extent: str
    num_batches: int
    num_pairs: int
    num_scored: int
    smallest_lambda: float | None = None
    backend: str = ""
    seconds: float = 0.0
    size_bytes: int = 0
    sha256: str = ""
    made_at: float = field(default_factory=time.time)
    version: int = VERSION


def make_key(kind: str, identity: Mapping[str, object]) -> str:
    """Return the name of an artifact: its kind, and sha256 of what it depends on."""
    text = json.dumps({"version": VERSION, "kind": kind, **identity}, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:40]}"


def read_manifest(folder: Path, key: str, file: str) -> ScoreManifest | None:
    """Return the manifest of a whole artifact, or None; a damaged artifact is removed."""
    try:
        manifest = ScoreManifest(**json.loads((folder / key / "manifest.json").read_text(encoding="utf-8")))
        whole = manifest.version == VERSION and manifest.sha256 == hash_file(folder / key / file)
    except (FileNotFoundError, NotADirectoryError):
        if (folder / key).is_dir():
            shutil.rmtree(folder / key, ignore_errors=True)
        return None
    except (ValueError, TypeError):
        whole = False
    if whole:
        return manifest
    shutil.rmtree(folder / key, ignore_errors=True)
    return None


def list_manifests(folder: Path, kind: str) -> Iterator[ScoreManifest]:
    """Yield the manifests of one kind, newest first; unreadable ones are passed over."""
    found = []
    for path in folder.glob(f"{kind}-*/manifest.json"):
        try:
            found.append(ScoreManifest(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    yield from sorted((m for m in found if m.version == VERSION), key=lambda m: -m.made_at)


def keep(folder: Path, manifest: ScoreManifest, file: str, tensors: Mapping[str, Tensor]) -> ScoreManifest:
    """Put a whole artifact in place at once; when another process was first, its equal result stays."""
    place = folder / manifest.key
    with filling(place) as temporary:
        write_tensors(temporary / file, tensors)
        size_bytes = (temporary / file).stat().st_size
        whole = replace(manifest, size_bytes=size_bytes, sha256=hash_file(temporary / file))
        (temporary / "manifest.json").write_text(json.dumps(asdict(whole)), encoding="utf-8")
        sync(temporary / "manifest.json")
        sync(temporary)
        try:
            temporary.rename(place)
        except OSError:
            if not (place / "manifest.json").exists():
                raise
    return whole


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file so that its name never stands for a part of it."""
    with writing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


@contextmanager
def lock(folder: Path, key: str, *, check: Callable[[], None], waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of `key`; while another process has it, `waiting` is told once and `check` may raise."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{key}.lock"
    descriptor = _take(path)
    if descriptor is None:
        waiting()
    while descriptor is None:
        check()
        time.sleep(WAIT_SECONDS)
        descriptor = _take(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # still held: who waits for this file sees that the name now stands for another
        os.close(descriptor)


def _take(path: Path) -> int | None:
    """Return the locked file, or None while another process holds it. The system drops the lock of a process that dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _same_file(descriptor, path):
            return descriptor
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno in NO_LOCKS:  # then two processes may do the same work, and keep the same
            return descriptor
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        now: Any = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (now.st_dev, now.st_ino)
