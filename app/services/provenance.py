"""Where a run comes from: data, models, packages and source, recorded at its launch so that it can be repeated."""

import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from app.store.tables import Dataset, Model
from app.system.installation import ROOT

PACKAGES = ("var-studio", "torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "numpy", "pyarrow")
REVISION = re.compile(r"[0-9a-f]{40,64}")


def describe(dataset: Dataset, models: dict[str, Model]) -> dict[str, Any]:
    """Everything outside the recipe that a run's result depends on; `models` by their part (policy, reward, judge)."""
    return {
        "dataset": {"id": dataset.id, "name": dataset.name, "sha256": dataset.sha256, "num_examples": dataset.num_examples},
        "models": {part: _describe_model(model) for part, model in models.items()},
        **describe_program(),
    }


def describe_program() -> dict[str, Any]:
    """Return what any run's result depends on: the packages and the code."""
    return {"packages": package_versions(), "git_revision": own_revision()}


def _describe_model(model: Model) -> dict[str, Any]:
    return {
        "id": model.id,
        "name": model.name,
        "source": model.source,
        "path": model.path,
        "revision": model.revision,
        "facts": model.facts,
    }


@cache
def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that touch the numbers; one that isn't installed here is left out."""
    versions = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@cache
def own_revision() -> str | None:
    """Return the commit of the code that this process has loaded, as it was first asked for."""
    return git_revision(ROOT)


def git_revision(checkout: Path) -> str | None:
    """Return the commit that is checked out, read from `.git` without running git; None when this isn't a checkout."""
    git = checkout / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head if REVISION.fullmatch(head) else None
        name = head.removeprefix("ref: ")
        loose = git / name
        if loose.is_file():
            return loose.read_text(encoding="utf-8").strip()
        for line in (git / "packed-refs").read_text(encoding="utf-8").splitlines():
            if line.endswith(f" {name}"):
                return line.split()[0]
    except OSError:
        return None
    return None
