"""What may not stand anywhere in the project: unsafe calls, paths of somebody's machine, addresses in the lock files."""

import ast
import json
import re

import pytest

from tests.architecture.tree import ROOT, list_files, list_modules, list_texts, parse, read

# Each pattern is written so that it does not match its own line.
UNSAFE = {
    "a shell": r"shell\s*=\s*True",
    "unescaped HTML": r"\|\s*safe\b",
    "a pickled model": r"torch[.]load\(",
    "an unpickler": r"\b(c?[p]ickle|dill|cloudpickle|joblib|shelve|marshal)[.](loads?|open|Unpickler)\(",
    "YAML that builds objects": r"\byaml[.](unsafe_|full_)?load\(",
    "code from a model's folder": r"trust_remote_code\s*[=:]\s*True",
    "evaluated text": r"(?<![\w.])(eval|exec)\(",
}
UNFINISHED = r"\b(TO[D]O|FIX[M]E|XX[X])\b|raise NotImplemented[E]rror|assert\s+True\b"
MACHINE_PATH = r"(?<![\w.~$}/-])/(work|farm|root|Users|home)/"

ASK_THE_DRIVER = {"app/services/checkup/machine.py", "worker/supervision/devices.py"}  # nvidia-smi, no Python
BUILD = {"app/assets.py", "app/wheel.py"}


def find(pattern: str, *tops: str) -> list[str]:
    """`file:line` of every match in the project's own text, or in the named folders only."""
    return [
        f"{path}:{number}"
        for path in list_texts()
        if not tops or path.parts[0] in tops
        for number, line in enumerate(read(path).splitlines(), 1)
        if re.search(pattern, line)
    ]


@pytest.mark.parametrize("pattern", UNSAFE.values(), ids=UNSAFE)
def test_no_unsafe_call_stands_in_the_tree(pattern):
    assert find(pattern, "app", "worker", "templates", "migrations", "tests") == []


def test_the_product_does_not_even_import_pickle():
    assert find(r"^\s*(import|from)\s+(c?pickle|dill|cloudpickle|joblib|shelve|marshal)\b", "app", "worker", "migrations") == []


def test_every_process_is_started_where_no_module_of_the_working_folder_runs():
    starts = [
        f"{path}:{node.lineno}"
        for path in list_modules("app", "worker")
        if str(path) not in ASK_THE_DRIVER | BUILD
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("subprocess.Popen", "subprocess.run")
        if not any(keyword.arg == "env" for keyword in node.keywords)
    ]
    assert starts == []


def is_text_without_encoding(call: ast.Call) -> bool:
    """Whether the call opens, reads or writes text in whatever encoding the machine has; what ruff sees only of plain paths."""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if "encoding" in named:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name in ("open", "fdopen") and ast.unparse(call.func) != "tarfile.open":
        modes = [arg.value for arg in [*call.args, *named.values()] if isinstance(arg, ast.Constant)]
        return any(isinstance(mode, str) and re.fullmatch("[rwax]t?[+]?", mode) for mode in modes) or not (call.args or named)
    return name in ("run", "Popen") and "text" in named


def test_every_text_file_has_an_encoding_whatever_the_machines_own():
    assert [
        f"{path}:{node.lineno}"
        for path in list_modules("app", "worker", "migrations")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and is_text_without_encoding(node)
    ] == []


def test_nothing_is_left_unfinished():
    assert find(UNFINISHED, "app", "worker", "templates", "migrations", "tests", "static", ".ci", "Makefile") == []


def test_no_path_of_somebodys_machine_stands_in_the_tree():
    assert find(MACHINE_PATH) == []


def test_the_lock_files_hold_versions_and_no_addresses():
    constraints = [line for line in read(ROOT / "constraints.txt").splitlines() if line and not line.startswith("#")]
    assert [line for line in constraints if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    for path in list_files():
        if path.name == "package-lock.json":
            packages = json.loads(read(path))["packages"]
            assert [name for name, package in packages.items() if "resolved" in package] == []


def test_the_versions_name_everything_that_is_asked_for():
    import tomllib

    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {re.match(r"[\w.-]+", one)[0].lower().replace("_", "-") for one in asked}
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in read(ROOT / "constraints.txt").splitlines()}
    assert names - {"var-studio"} <= pinned


def test_third_party_javascript_is_not_in_git():
    assert [path for path in list_files() if {"vendor", "node_modules"} & set(path.parts)] == []
