"""docs/architecture.md is true: its tree names every folder, its table says what each floor imports."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.test_floors import FLOORS, floor_of
from tests.architecture.tree import ROOT, list_modules, parse, read

TEXT = read(Path("docs/architecture.md"))
ROW = re.compile(r"^\| `([\w./]+)` \| (.+) \| (.+) \|$", re.MULTILINE)
TABLE = {floor: (ours, others) for floor, ours, others in ROW.findall(TEXT)}


def names(cell: str) -> set[str]:
    return set(cell.split(", ")) - {"nothing"}


def paths_of_the_tree() -> Iterator[str]:
    """Every file and folder of the section on folders, from its indentation."""
    above: list[tuple[int, str]] = []
    for line in re.search(r"## The folders\n\n(.*?)\n\n", TEXT, re.DOTALL)[1].splitlines():
        indent = len(line) - len(line.lstrip())
        above = [(depth, folder) for depth, folder in above if depth < indent]
        for word in line.split():
            if not re.fullmatch(r"\w+(/|\.py)", word):
                break
            yield (above[-1][1] if above else "") + word
        if word_folder := re.match(r"\w+/", line.lstrip()):
            above.append((indent, (above[-1][1] if above else "") + word_folder[0]))


def test_the_tree_names_every_folder_of_the_code_and_none_besides():
    told = set(paths_of_the_tree())
    assert {path for path in told if not (ROOT / path).exists()} == set()
    assert {f"{path.parent}/" for path in list_modules("app", "worker")} - told == set()


def test_the_table_of_floors_says_which_packages_each_may_import():
    assert {floor: names(others) for floor, (_, others) in TABLE.items()} == FLOORS


def imports_of_ours(path: Path) -> set[str]:
    """What a module imports of `app` and `worker`, as `app.domain`."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} if "." in node.module else {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {".".join(name.split(".")[:2]) for name in found if name.split(".")[0] in {"app", "worker"}}


def test_the_table_of_floors_says_what_each_may_import_of_ours():
    wrong = {}
    for path in list_modules("app", "worker"):
        floor = floor_of(path)
        top = path.parts[0]
        told = {name if "." in name else f"{top}.{name}" for name in names(TABLE[floor][0])}
        own = ".".join(Path(floor).with_suffix("").parts[:2])
        if found := imports_of_ours(path) - told - {own}:
            wrong[str(path)] = found
    assert wrong == {}
