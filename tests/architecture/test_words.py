"""One word per thing: metrics come from the catalogue, event kinds name their fragments, nouns name their files."""

import ast
import re

import pytest

from app.domain.events import EVENT_KINDS
from app.domain.metrics import CATALOGUE
from tests.architecture.tree import ROOT, list_modules, list_texts, parse, read

# Kinds that a page shows through another part of it instead of a fragment of their own.
SHOWN_ELSEWHERE: dict[str, str] = {}
METRIC = re.compile(r"""["'`]((?:weight|reward|eval|dpo|pairs|kto|group|cost|reward_model|online)/[a-z0-9_]+)["'`]""")


def test_every_metric_that_is_named_anywhere_is_in_the_catalogue():
    unknown = {
        f"{path}: {key}"
        for path in list_texts()
        if path.parts[0] in {"app", "worker", "templates", "static"} and path.suffix != ".json"
        for key in METRIC.findall(read(path))
        if key not in CATALOGUE
    }
    assert unknown == set()


def test_every_metric_explains_itself():
    for key, metric in CATALOGUE.items():
        assert key == metric.key
        assert metric.title, key
        assert metric.meaning.endswith("."), key


def test_every_event_kind_names_its_fragment():
    fragments = ROOT / "templates/runs"
    assert [kind for kind in EVENT_KINDS if not ((fragments / f"_{kind}.html").is_file() or SHOWN_ELSEWHERE.get(kind))] == []


@pytest.mark.parametrize("noun", ["datasets", "models", "runs", "sweeps"])
def test_a_noun_is_the_same_file_name_on_every_floor(noun):
    floors = {path.parent.as_posix() for path in list_modules("app") if path.stem == noun}
    assert floors >= {"app/store", "app/services", "app/web/api", "app/web/pages"}
    assert (ROOT / "templates" / noun).is_dir()


def test_a_class_has_a_name_of_its_own():
    named: dict[str, list[str]] = {}
    for path in list_modules("app", "worker"):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef):
                named.setdefault(node.name, []).append(path.as_posix())
    assert {name: paths for name, paths in named.items() if len(paths) > 1} == {}


NAMES_A_THING = re.compile(r"(The|A|An|What|Whether|How|Which|All|Every|Each|Where|Why)\b")
SHOWN_TO_USERS = re.compile(r"router|command|\.(get|post|put|delete|callback)\(|property|validator|middleware")


def test_a_docstring_says_what_a_function_does():
    """`Return the run`, not `The run`; properties and what the API's document or a command's help shows are let be."""
    named = [
        f"{path}: {node.name}"
        for path in list_modules("app", "worker")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.returns is not None
        and ast.unparse(node.returns) != "None"
        and not SHOWN_TO_USERS.search(" ".join(map(ast.unparse, node.decorator_list)))
        and NAMES_A_THING.match(ast.get_docstring(node) or "")
    ]
    assert named == []


def test_the_effective_sample_size_is_called_so_everywhere():
    other = re.compile(r"effective (share|size)|ESS share", re.IGNORECASE)
    tops = {"app", "worker", "templates", "static"}
    assert [str(path) for path in list_texts() if path.parts[0] in tops and other.search(read(path))] == []
