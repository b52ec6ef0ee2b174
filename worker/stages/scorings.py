"""The cache of scores: content-addressed, written in groups, one file when it is whole.

scorings/<key>/scores.safetensors  manifest.json        a finished scoring; the key covers everything it depends on
scorings/<key>.partial/group-00003.safetensors          what a killed pass leaves for the next one
Tensors are named by their batch; float32, so a pair costs 4 bytes here and 8 with both kinds of score.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.models.checkpoint import hash_file, sync_path

VERSION = 1
GROUP_SIZE = 16  # batches; a kill loses at most one group


def make_key(kind: str, facts: Mapping[str, object], content: "hashlib._Hash") -> str:
    """The name of a scoring: sha256 of its kind, its facts and the digest of its content."""
    text = json.dumps({"version": VERSION, "kind": kind, "facts": facts, "content": content.hexdigest()}, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:40]}"


def find_scoring(folder: Path, key: str, num_batches: int) -> list[Tensor] | None:
    """The finished scoring's tensors by batch, or None; a damaged one is removed and made again."""
    path = folder / key
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["sha256"] != hash_file(path / "scores.safetensors"):
            raise ValueError("sha256 differs")
        tensors = load_file(path / "scores.safetensors")
        return [tensors[str(k)] for k in range(num_batches)]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, SafetensorError):
        shutil.rmtree(path, ignore_errors=True)
        return None


def score_in_groups(
    folder: Path, key: str, num_batches: int, score: Callable[[int], Tensor], progress: Callable[[int, int], None]
) -> list[Tensor]:
    """Score every batch, resuming after the groups that an earlier pass saved; `score(k)` gives batch k's tensor."""
    partial = folder / f"{key}.partial"
    results: list[Tensor] = []
    for start in range(0, num_batches, GROUP_SIZE):
        end = min(start + GROUP_SIZE, num_batches)
        group = partial / f"group-{start // GROUP_SIZE:05d}.safetensors"
        saved = _load_group(group, start, end)
        if saved is None:
            saved = []
            for k in range(start, end):
                saved.append(score(k))
                progress(k + 1, num_batches)
            _save(group, {str(start + k): tensor for k, tensor in enumerate(saved)})
        results += saved
        progress(end, num_batches)
    _finish(folder, key, results)
    return results


def _load_group(path: Path, start: int, end: int) -> list[Tensor] | None:
    try:
        tensors = load_file(path)
        return [tensors[str(k)] for k in range(start, end)]
    except (FileNotFoundError, KeyError, SafetensorError):
        return None


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    sync_path(temporary)
    temporary.replace(path)


def _finish(folder: Path, key: str, results: list[Tensor]) -> None:
    """Put the whole scoring in place at once; when another run was first, its equal result stays."""
    temporary = folder / f".{key}.{os.getpid()}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    _save(temporary / "scores.safetensors", {str(k): tensor for k, tensor in enumerate(results)})
    manifest = {"version": VERSION, "num_batches": len(results), "sha256": hash_file(temporary / "scores.safetensors")}
    (temporary / "manifest.json").write_text(json.dumps(manifest))
    sync_path(temporary / "manifest.json")
    sync_path(temporary)
    try:
        temporary.rename(folder / key)
    except OSError:
        if not (folder / key / "manifest.json").exists():
            raise
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(folder / f"{key}.partial", ignore_errors=True)
