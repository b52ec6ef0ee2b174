"""What a machine lacks for the quick ways to train is found by the supervisor, without torch."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.domain.jobs import FAST_PATHS
from tests.architecture.tree import ROOT
from worker.supervision import fast_paths
from worker.supervision.devices import list_gpus
from worker.supervision.fast_paths import find_obstacles

PROGRAMS = ("gcc", "g++")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which everything works: compilers in `bin`, headers in `include`, folders for what they make."""
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    for name in PROGRAMS:
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").touch()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(fast_paths.sysconfig, "get_paths", lambda: {"include": str(tmp_path / "include")})
    monkeypatch.setattr(fast_paths, "find_spec", lambda name: name)
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "not" / "there yet"))
    return tmp_path


def test_where_everything_is_there_only_a_gpu_may_be_missing(machine: Path) -> None:
    assert find_obstacles(has_gpu=True) == {}
    assert find_obstacles(has_gpu=False) == {"flex": "it needs an NVIDIA GPU."}


@pytest.mark.parametrize(("missing", "words"), [("g++", "apt-get install g++"), ("gcc", "apt-get install gcc")])
def test_without_a_compiler_its_package_is_named(machine: Path, missing: str, words: str) -> None:
    (machine / "bin" / missing).unlink()
    told = find_obstacles(has_gpu=True)
    assert set(told) == {"compile", "flex"}
    assert words in told["compile"]
    assert ("compile" in find_obstacles(has_gpu=False)) == (missing == "g++")  # triton's compiler is for GPUs


def test_another_compiler_may_be_chosen(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "bin" / "g++").rename(machine / "bin" / "mine")
    monkeypatch.setenv("CXX", "mine")
    assert "compile" not in find_obstacles(has_gpu=False)


def test_without_the_headers_of_python_their_package_is_named(machine: Path) -> None:
    (machine / "include" / "Python.h").unlink()
    assert "apt-get install python3-dev" in find_obstacles(has_gpu=False)["compile"]


@pytest.mark.parametrize("variable", ["TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"])
def test_a_cache_that_is_mounted_noexec_is_named(machine: Path, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = machine / "closed"
    closed.mkdir()
    mounted = os.statvfs

    def statvfs(folder: Path) -> Any:
        told = mounted(folder)
        return SimpleNamespace(f_flag=told.f_flag | os.ST_NOEXEC) if folder == closed else told

    monkeypatch.setattr(os, "statvfs", statvfs)
    monkeypatch.setenv(variable, str(closed / "kernels"))
    assert f"loaded from {closed}: set {variable}" in find_obstacles(has_gpu=True)["flex"]


def test_a_missing_package_comes_with_a_command_for_this_very_python(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_paths, "find_spec", lambda _: None)
    told = find_obstacles(has_gpu=True)
    assert told == {"nf4": f"the package bitsandbytes is not installed: {sys.executable} -m pip install bitsandbytes."}


def test_every_obstacle_has_a_name_to_show(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_paths, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    assert set(find_obstacles(has_gpu=True)) == set(FAST_PATHS)


def test_a_worker_says_at_its_start_what_is_off(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "STUDIO_DATA_DIR": str(tmp_path / "var")}
    worker = subprocess.Popen(
        [sys.executable, "-m", "worker.main"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert worker.stderr is not None
    try:
        said = ""
        for line in worker.stderr:
            said += line
            if " ready." in line:
                break
    finally:
        worker.terminate()
        worker.communicate(timeout=60)
    off = find_obstacles(has_gpu=bool(list_gpus()))
    assert [name for name in off if f"{FAST_PATHS[name]} is off here: " not in said] == []
    assert "slots" in said
