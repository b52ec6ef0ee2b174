"""What is installed here: the files that belong to the code, and whether the packages that train came with it.

A wheel holds templates, static files and migrations inside the package `app`; a checkout has them beside it.
"""

import os
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(str(files("app")))
ROOT = PACKAGE.parent  # what Python finds `app` and `worker` in: the checkout, or site-packages
TRAINING = ("torch", "transformers", "tokenizers", "peft", "accelerate", "safetensors")
SAFE_PATH = {"PYTHONSAFEPATH": "1"}  # like -P, for the children of children as well
VENDORED = ("htmx.js", "echarts.js")


def find_folder(name: str) -> Path:
    """Return where `templates`, `static` or `migrations` lies."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else ROOT / name


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs one of our modules, whatever folder it starts in: a stranger's `app` there is not ours."""
    return [sys.executable, "-P", "-m", module, *arguments]


def inherit_environment(**more: str) -> dict[str, str]:
    """Return our environment for a child, with which no Python that it starts takes modules from the folder it runs in."""
    return {**os.environ, **SAFE_PATH, **more}


def limit_threads(num_threads: int) -> dict[str, str]:
    """Return the environment of a child that computes with so many threads.

    They sleep where they wait for each other, unless ours says otherwise: on cores that others use too, threads that spin
    keep away the very ones they wait for, and a small model says a tenth of its tokens or less.
    """
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(num_threads))
    return {**limits, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}


def is_checkout() -> bool:
    """Return whether the code runs from its repository."""
    return (ROOT / "pyproject.toml").is_file()


def install_command(extra: str) -> str:
    """Return the command that adds one of the optional parts to this installation."""
    return f"pip install -e '.[{extra}]'" if is_checkout() else f"pip install 'var-studio[{extra}]'"


def start_command(options: str) -> str:
    """Return the command that starts the studio with these options, as whoever started it had it: make's, or our own."""
    return f'make up ARGS="{options}"' if os.environ.get("MAKELEVEL") else f"varstudio up {options}"


def list_missing_files() -> list[str]:
    """Return the files that the pages and the tables can't do without and that aren't here; one stands for its folder."""
    needed = ["templates/base.html", "static/studio.css", *(f"static/vendor/{name}" for name in VENDORED), "migrations/env.py"]
    return [name for name in needed if not (find_folder(name.split("/")[0]).parent / name).is_file()]


def restore_command() -> str:
    """Return the command that brings missing files back."""
    return "make assets (or python -m app.assets)" if is_checkout() else "pip install --force-reinstall --no-deps var-studio"


def find_untrainable() -> str:
    """Return why this installation can't train, and what to do, as a sentence; empty when it can."""
    missing = [name for name in TRAINING if find_spec(name) is None]
    return f"{missing[0]} is not installed here. To train here: {install_command('worker')}" if missing else ""
