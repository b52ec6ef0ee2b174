"""Files and functions stay short enough to be read in one go, and every file name is a noun of the studio."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.tree import list_files, list_modules, parse, read

MODULE_LINES = {"app": 300, "worker": 350, "worker/var": 150}
# In app/ these nouns of the studio may be told whole: no piece is cut off only to keep the count.
WHOLE_NOUNS = {
    "charts", "datasets", "models", "queue", "recipe", "recipes", "runs", "scorings", "sweep", "sweeps", "tables", "workers",
}  # fmt: skip
WHOLE_NOUN_LINES = 400
FOLDER_MODULES = 20
FUNCTION_LINES = 50
PAGE_LINES, FRAGMENT_LINES = 150, 80
LINE_WIDTH = {".html": 160, ".css": 120, ".js": 140}
NOT_A_NOUN = {
    "utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "managers", "tools", "core", "parts",
    "sections", "panel",
}  # fmt: skip


def count_lines(path: Path) -> int:
    return len(read(path).splitlines())


def budget_of(path: Path) -> int:
    if path.parts[0] == "app" and path.stem in WHOLE_NOUNS:
        return WHOLE_NOUN_LINES
    return next(MODULE_LINES[top] for top in ("worker/var", "worker", "app") if path.as_posix().startswith(f"{top}/"))


def lines_of_template(path: Path) -> int:
    return FRAGMENT_LINES if path.name.startswith("_") else PAGE_LINES


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length of every function, from its `def` to its end, its docstring left out."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            spared = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
            yield node.name, node.end_lineno - node.lineno + 1 - spared


def test_a_module_stays_within_its_lines():
    assert {str(path): lines for path in list_modules("app", "worker") if (lines := count_lines(path)) > budget_of(path)} == {}


def test_a_folder_is_seen_at_a_glance():
    modules = Counter(path.parent.as_posix() for path in list_modules("app", "worker") if path.name != "__init__.py")
    assert {folder: number for folder, number in modules.items() if number > FOLDER_MODULES} == {}


def test_a_function_stays_within_its_lines():
    long = {
        f"{path}: {name}": lines
        for path in list_modules("app", "worker")
        for name, lines in functions(path)
        if lines > FUNCTION_LINES
    }
    assert long == {}


def test_a_template_stays_within_its_lines():
    templates = [path for path in list_files() if path.parts[0] == "templates"]
    assert {str(path): lines for path in templates if (lines := count_lines(path)) > lines_of_template(path)} == {}


def test_a_line_of_the_front_end_stays_within_its_width():
    files = [path for path in list_files() if path.parts[0] in {"templates", "static"} and path.suffix in LINE_WIDTH]
    wide = {
        f"{path}:{number}": len(line)
        for path in files
        for number, line in enumerate(read(path).splitlines(), 1)
        if len(line) > LINE_WIDTH[path.suffix]
    }
    assert wide == {}


def test_the_style_sheet_has_one_declaration_a_line():
    lines = read(Path("static/studio.css")).splitlines()
    assert [line for line in lines if re.search(r"[;{}]\s*[^\s*/]", line)] == []


def test_a_module_is_named_after_what_it_is_about():
    named = list_modules("app", "worker", "migrations")
    assert [str(path) for path in named if NOT_A_NOUN & {path.stem, *path.parts[:-1]}] == []


def test_only_known_things_lie_at_the_root():
    known = {
        "pyproject.toml", "app", "worker", "templates", "static", "migrations", "tests", "docker-compose.yml", "docs", ".ci",
        "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "constraints.txt", ".gitignore", ".dockerignore", ".env.example",
        "DEVELOPERS.md",
    }  # fmt: skip
    assert {path.parts[0] for path in list_files()} <= known
