"""Checkpoints: safetensors and JSON only, complete or absent, newest that verifies first.

checkpoints/step-000100/  tensors.safetensors  state.json  manifest.json (size and sha256 of the others)
Written to a temporary folder, every file and the folder fsynced, then renamed: a name that exists is whole.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.domain.errors import ModelInvalid
from app.system.files import filling, hash_file, name_beside, sync
from worker.running.failpoints import reach

FORMAT = 1
CONTENT = frozenset({"tensors.safetensors", "state.json"})
_NAME = re.compile(r"^step-(\d{6,})$")


@dataclass(frozen=True)
class Checkpoint:
    name: str
    step: int
    size_bytes: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


@dataclass(frozen=True)
class DamagedCheckpoint:
    """A checkpoint that is there but can't be trusted, and why."""

    name: str
    reason: str


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    may_appear: Callable[[], None] = lambda: None,
) -> tuple[str, int]:
    """Write one checkpoint and return its name and size in bytes; raises OSError and leaves nothing when the disk refuses.

    `may_appear` is asked when all is written, just before the name appears: what it raises takes the checkpoint back.
    """
    name = name_checkpoint(step)
    target = folder / name
    with filling(target) as temporary:
        reach("checkpoint.begun")
        _write_tensors(temporary / "tensors.safetensors", tensors)
        reach("checkpoint.tensors_written")
        (temporary / "state.json").write_text(json.dumps({"step": step, **state}, allow_nan=False), encoding="utf-8")
        reach("checkpoint.state_written")
        files = {
            path.name: {"size_bytes": path.stat().st_size, "sha256": hash_file(path)} for path in sorted(temporary.iterdir())
        }
        (temporary / "manifest.json").write_text(json.dumps({"format": FORMAT, "step": step, "files": files}), encoding="utf-8")
        reach("checkpoint.manifest_written")
        for path in temporary.iterdir():
            sync(path)
            reach("checkpoint.file_synced")
        sync(temporary)
        reach("checkpoint.folder_synced")
        may_appear()
        if target.exists():  # the same step, saved by an earlier attempt
            _remove(target)
        temporary.rename(target)
    reach("checkpoint.renamed")
    sync(folder)
    reach("checkpoint.name_synced")
    return name, sum(path.stat().st_size for path in target.iterdir())


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path)
    except SafetensorError as error:  # the Rust writer reports a full disk as its own error
        if "No space left" in str(error):
            raise OSError(28, "No space left on device", str(path)) from error
        raise


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[DamagedCheckpoint]]:
    """Return the newest checkpoint that verifies (None: start from 0), and the newer ones that don't."""
    damaged: list[DamagedCheckpoint] = []
    for name in reversed(list_checkpoints(folder)):
        try:
            return _load(folder / name), damaged
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            damaged.append(DamagedCheckpoint(name, str(error) or type(error).__name__))
    return None, damaged


def load_step(folder: Path, step: int) -> Checkpoint:
    """Return the checkpoint of one step; raises ModelInvalid when it is not there, or can't be trusted."""
    try:
        return _load(folder / name_checkpoint(step))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelInvalid(
            f"The checkpoint of step {step} can't be read ({error}): it was removed meanwhile, or is damaged. Take another step."
        ) from error


def name_checkpoint(step: int) -> str:
    return f"step-{step:06d}"


def list_checkpoints(folder: Path) -> list[str]:
    """Names of the checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((path.name for path in folder.iterdir() if _NAME.match(path.name)), key=lambda name: int(name[5:]))


def _load(path: Path) -> Checkpoint:
    manifest = _read_manifest(path / "manifest.json")
    if manifest["format"] != FORMAT:
        raise ValueError(f"its format {manifest['format']} is not this version's {FORMAT}")
    if name_checkpoint(manifest["step"]) != path.name or not manifest["files"].keys() >= CONTENT:
        raise ValueError("manifest.json is not what was written (it describes another checkpoint)")
    for name, facts in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise ValueError(f"{name} is missing")
        if file.stat().st_size != facts["size_bytes"] or hash_file(file) != facts["sha256"]:
            raise ValueError(f"{name} is not what manifest.json says (its sha256 differs)")
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    size = sum(facts["size_bytes"] for facts in manifest["files"].values())
    return Checkpoint(path.name, int(state["step"]), size, load_file(path / "tensors.safetensors"), state)


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest's fields; raises ValueError that names the file, whatever is wrong with it."""
    if not path.is_file():
        raise ValueError("manifest.json is missing")
    try:
        manifest = json.loads(path.read_bytes())
        shape = {key: type(manifest[key]) for key in ("format", "step", "files")}
        facts = [(len(fact["sha256"]), int(fact["size_bytes"])) for fact in manifest["files"].values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("manifest.json is not what was written (it can't be read)") from error
    if shape != {"format": int, "step": int, "files": dict} or not facts:
        raise ValueError("manifest.json is not what was written (its fields differ)")
    return dict(manifest)


def _remove(path: Path) -> None:
    """Take a checkpoint's name away at once, then its files: a half-removed one must never look like a damaged one."""
    reach("checkpoint.removing")
    gone = name_beside(path)
    try:
        path.rename(gone)
    except OSError:
        gone = path
    shutil.rmtree(gone, ignore_errors=True)


def sweep(folder: Path, keep: int, damaged: list[DamagedCheckpoint] | None = None) -> None:
    """Remove what a killed writer left behind, damaged checkpoints, and all but the newest `keep`."""
    if not folder.is_dir():
        return
    for path in folder.glob(".step-*.part"):
        shutil.rmtree(path, ignore_errors=True)
    for bad in damaged or []:
        _remove(folder / bad.name)
    for name in list_checkpoints(folder)[:-keep]:
        _remove(folder / name)
