"""The checkout as the architecture tests see it: its files, and what each Python module imports."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = {".png", ".ico", ".woff2", ".gz", ".parquet", ".safetensors"}


@cache
def list_files() -> tuple[Path, ...]:
    """Every file of the project that git would take, relative to the root: no caches, no third-party libraries."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return tuple(Path(name) for name in sorted(set(names)) if name and (ROOT / name).is_file())


def list_modules(*tops: str) -> list[Path]:
    return [path for path in list_files() if path.suffix == ".py" and path.parts[0] in tops]


def list_texts() -> list[Path]:
    return [path for path in list_files() if path.suffix not in BINARY]


@cache
def read(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(read(path), filename=str(path))


def imported_packages(path: Path) -> set[str]:
    """Top-level names of everything the module imports, at its top and inside functions; without the standard library."""
    names: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return {name for name in names if name not in sys.stdlib_module_names}
