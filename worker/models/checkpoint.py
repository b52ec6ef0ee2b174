"""Checkpoints: safetensors and JSON only, complete or absent, newest that verifies first.

checkpoints/step-000100/  tensors.safetensors  state.json  manifest.json (size and sha256 of the others)
Written to a temporary folder, every file and the folder fsynced, then renamed: a name that exists is whole.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 1
_NAME = re.compile(r"^step-(\d{6,})$")


@dataclass(frozen=True)
class Checkpoint:
    name: str
    step: int
    size_bytes: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


@dataclass(frozen=True)
class Damaged:
    """A checkpoint that is there but can't be trusted, and why."""

    name: str
    reason: str


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> tuple[str, int]:
    """Write one checkpoint and return its name and size in bytes; raises OSError and leaves nothing when the disk refuses."""
    name = name_checkpoint(step)
    target, temporary = folder / name, folder / f".{name}.{os.getpid()}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write_tensors(temporary / "tensors.safetensors", tensors)
        (temporary / "state.json").write_text(json.dumps({"step": step, **state}, allow_nan=False))
        files = {
            path.name: {"size_bytes": path.stat().st_size, "sha256": hash_file(path)} for path in sorted(temporary.iterdir())
        }
        (temporary / "manifest.json").write_text(json.dumps({"format": FORMAT, "step": step, "files": files}))
        for path in temporary.iterdir():
            sync_path(path)
        sync_path(temporary)
        if target.exists():  # the same step, saved by an earlier attempt
            shutil.rmtree(target)
        temporary.rename(target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_path(folder)
    return name, sum(path.stat().st_size for path in target.iterdir())


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path)
    except SafetensorError as error:  # the Rust writer reports a full disk as its own error
        if "No space left" in str(error):
            raise OSError(28, "No space left on device", str(path)) from error
        raise


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[Damaged]]:
    """The newest checkpoint that verifies (None: start from 0), and the newer ones that don't."""
    damaged: list[Damaged] = []
    for name in reversed(list_checkpoints(folder)):
        try:
            return _load(folder / name), damaged
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            damaged.append(Damaged(name, str(error) or type(error).__name__))
    return None, damaged


def name_checkpoint(step: int) -> str:
    return f"step-{step:06d}"


def list_checkpoints(folder: Path) -> list[str]:
    """Names of the checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((path.name for path in folder.iterdir() if _NAME.match(path.name)), key=lambda name: int(name[5:]))


def _load(path: Path) -> Checkpoint:
    manifest = json.loads((path / "manifest.json").read_text())
    if manifest["format"] != FORMAT:
        raise ValueError(f"its format {manifest['format']} is not this version's {FORMAT}")
    for name, facts in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise ValueError(f"{name} is missing")
        if file.stat().st_size != facts["size_bytes"] or hash_file(file) != facts["sha256"]:
            raise ValueError(f"{name} is not what was written (its sha256 differs)")
    state = json.loads((path / "state.json").read_text())
    size = sum(facts["size_bytes"] for facts in manifest["files"].values())
    return Checkpoint(path.name, int(state["step"]), size, load_file(path / "tensors.safetensors"), state)


def sweep(folder: Path, keep: int, damaged: list[Damaged] | None = None) -> None:
    """Remove what a killed writer left behind, damaged checkpoints, and all but the newest `keep`."""
    if not folder.is_dir():
        return
    for path in folder.glob(".step-*.part"):
        shutil.rmtree(path, ignore_errors=True)
    for bad in damaged or []:
        shutil.rmtree(folder / bad.name, ignore_errors=True)
    for name in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(folder / name, ignore_errors=True)


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_path(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
