"""Fail-points are inert: nothing of the product listens, and there is no way to switch one on from outside."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import CHECKOUT
from worker.running import failpoints

SOURCES = [path for top in ("app", "worker") for path in (CHECKOUT / top).rglob("*.py")]
REACHED = re.compile(r'\breach\("([^"]+)"\)')


def test_every_point_is_reached_somewhere_and_every_reached_one_is_known() -> None:
    reached = [point for path in SOURCES for point in REACHED.findall(path.read_text()) if path.name != "failpoints.py"]
    assert set(reached) == set(failpoints.POINTS)
    assert len(failpoints.POINTS) == len(set(failpoints.POINTS))


def test_nothing_of_the_product_listens() -> None:
    """Whoever wants the module's `listen` must import it from there, or the module itself."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "worker.running.failpoints":
                assert [name.name for name in node.names] == ["reach"], path
            if isinstance(node, ast.ImportFrom) and node.module == "worker.running":
                assert "failpoints" not in [name.name for name in node.names], path
            if isinstance(node, ast.Import):
                assert "worker.running.failpoints" not in [name.name for name in node.names], path


def test_the_module_reads_neither_environment_nor_files_and_does_nothing_by_itself() -> None:
    tree = ast.parse(Path(failpoints.__file__).read_text(encoding="utf-8"))
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imported == ["collections.abc"]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    reach_all = "[failpoints.reach(point) for point in failpoints.POINTS]"
    code = f"from worker.running import failpoints; {reach_all}; print(failpoints._listener)"
    environment = {f"STUDIO_{name}": "step.begun=kill" for name in ("FAILPOINTS", "FAIL_POINTS", "MISHAPS")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, env={**environment, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "None\n"
