"""What is made part by part and kept by content among the scores: whole, or as parts that outlive a kill.

scorings/<key>/<file>  manifest.json            a whole artifact (worker.stages.scoring.artifacts)
scorings/<key>.partial/part-00003.safetensors   what a killed attempt leaves for the next one
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worker.running.failpoints import reach
from worker.stages.attempt import AttemptContext
from worker.stages.scoring.artifacts import ScoreManifest, keep, lock, make_key, read_manifest, write_tensors

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Artifact:
    """A kind of tensors, and what they depend on; `facts` say the same to people."""

    kind: str
    file: str
    identity: Mapping[str, object]
    facts: Mapping[str, str]

    @property
    def key(self) -> str:
        return make_key(self.kind, self.identity)

    def find(self, folder: Path) -> Tensors | None:
        """Return the whole artifact; None where it isn't there, or was damaged and is gone now."""
        if read_manifest(folder, self.key, self.file) is None:
            return None
        try:
            return load_file(folder / self.key / self.file)
        except (OSError, SafetensorError):
            shutil.rmtree(folder / self.key, ignore_errors=True)
            return None


def find_or_make(
    attempt: AttemptContext, artifact: Artifact, num_parts: int, make: Callable[[int], Tensors], what: str
) -> tuple[Tensors, bool]:
    """Return the artifact, and whether it was there; parts that an earlier attempt left are gone on with.

    `make(number)` gives a part's tensors, which are laid end to end.
    """
    folder, began = Path(attempt.spec.scorings_dir), time.monotonic()

    def waiting() -> None:
        attempt.log(f"Another process is making the same {what}: waiting for it.")

    with lock(folder, artifact.key, check=attempt.stop.check, waiting=waiting):
        found = artifact.find(folder)
        if found is not None:
            return found, True
        partial = folder / f"{artifact.key}.partial"
        parts = []
        for number in range(num_parts):
            path = partial / f"part-{number:05d}.safetensors"
            part = _read_part(path)
            if part is None:
                part = make(number)
                attempt.refuse_superseded()
                write_tensors(path, part)
                reach("artifact.written")
            parts.append(part)
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        keep_whole(folder, artifact, whole, num_parts, time.monotonic() - began)
        shutil.rmtree(partial, ignore_errors=True)
    return whole, False


def keep_whole(folder: Path, artifact: Artifact, tensors: Tensors, num_parts: int = 1, seconds: float = 0.0) -> None:
    """Put an artifact in place at once, unless it is there."""
    num = max(len(tensor) for tensor in tensors.values())
    manifest = ScoreManifest(
        artifact.key, artifact.kind, artifact.facts, "own", num_parts, num_pairs=num, num_scored=num, seconds=seconds
    )
    if read_manifest(folder, artifact.key, artifact.file) is None:
        keep(folder, manifest, artifact.file, tensors)


def _read_part(path: Path) -> Tensors | None:
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None
