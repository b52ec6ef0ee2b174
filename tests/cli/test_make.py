"""The first minute on a machine where something is missing: `make` says in a sentence what, and leaves nothing half-made."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

NOBODY = 65534
REAL = f'exec "{sys.executable}" "$@"'


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A folder like a fresh clone, where any user may look; `bin` comes first in PATH."""
    with tempfile.TemporaryDirectory(prefix="studio-clone-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for path in ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "app/__init__.py", "app/wheel.py"):
            (folder / path).parent.mkdir(exist_ok=True)
            shutil.copyfile(ROOT / path, folder / path)
        (folder / "bin").mkdir()
        for version in ("", ".11", ".12", ".13"):
            put_python(folder, REAL, f"python3{version}")
        yield folder


def put_python(folder: Path, script: str, name: str = "python3") -> None:
    program = folder / "bin" / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def make(folder: Path, *arguments: str, user: int | None = None, **variables: str) -> str:
    """What a failing `make` writes to standard error."""
    path = f"{folder / 'bin'}:{os.defpath}"
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=folder, env={"PATH": path, "HOME": str(folder), **variables},
        capture_output=True, text=True, check=False, user=user, timeout=100,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout
    return done.stderr


def test_without_a_venv_module_its_package_is_named_and_nothing_is_made(checkout: Path) -> None:
    put_python(checkout, f'case "$*" in *ensurepip*) exit 1;; esac; {REAL}')
    assert "apt-get install python3-venv, then run make again." in make(checkout, "up")
    assert not (checkout / ".venv").exists()


def test_a_virtual_environment_that_fails_half_way_is_removed(checkout: Path) -> None:
    put_python(checkout, f'case "$*" in "-m venv"*) mkdir -p "$3/bin"; touch "$3/bin/python"; exit 1;; esac; {REAL}')
    assert "No virtual environment could be made in .venv" in make(checkout, "up")
    assert not (checkout / ".venv").exists()
    (checkout / "kept").mkdir()
    make(checkout, "up", "VENV=kept")
    assert (checkout / "kept").exists(), "a folder that was there before is not ours to remove"


def test_a_python_that_is_too_old_is_refused(checkout: Path) -> None:
    for version in ("", ".11", ".12", ".13"):
        put_python(checkout, "exit 1", f"python3{version}")
    assert "Python 3.11 or newer is needed" in make(checkout, "up")
    assert "Python 3.11 or newer is needed" in make(checkout, "up", "PYTHON=python3.13")
    assert not (checkout / ".venv").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user, which only root can become")
def test_a_folder_that_can_not_be_written_is_named(checkout: Path) -> None:
    put_python(checkout, "exit 0")
    assert f"This folder can not be written: {checkout}" in make(checkout, "up", user=NOBODY)


def test_without_a_package_index_the_sentence_says_what_it_takes(checkout: Path) -> None:
    away = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    told = make(checkout, "up", **away)
    assert "No matching distribution found" in told
    assert "It takes a connection to a package index" in told
    assert not (checkout / ".venv/.stamp-studio").exists()
