"""Names that would lead out of the studio's folders, in every path parameter and text field; the interpreter itself is the judge.

An audit hook sees every file that this process opens, whoever opens it. It can't be taken away again, so it is armed only here.
"""

import mimetypes
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import CHECKOUT
from tests.web.conftest import Studio, make_app, opened
from tests.web.test_access import list_routes

# What the interpreter and its libraries may read for themselves.
LIBRARIES = (CHECKOUT, sys.prefix, sys.base_prefix, sysconfig.get_path("purelib"), "/usr/share", "/usr/lib", "/lib")
USUAL = tuple(Path(place).resolve() for place in (*LIBRARIES, "/proc", "/dev/null", "/dev/urandom", "/sys"))
OPENS = ("open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.link", "shutil.rmtree", "shutil.copyfile")
_armed: list[set[Path]] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _armed and event in OPENS and arguments and isinstance(arguments[0], str | bytes | os.PathLike):
        _armed[-1].add(Path(os.fsdecode(arguments[0])).absolute())


sys.addaudithook(_note)


@contextmanager
def judged() -> Iterator[set[Path]]:
    """The paths that this process opens meanwhile."""
    opened: set[Path] = set()
    _armed.append(opened)
    try:
        yield opened
    finally:
        _armed.remove(opened)


@pytest.fixture
def studio(tmp_path: Path, migrated_sqlite: Path) -> Iterator[Studio]:
    mimetypes.init()  # a library reads the system's list at its first need of it
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    for name in ("secret.txt", "spec.json", "model.safetensors"):
        (outside / name).write_text("the secret")
    with opened(make_app(inside, migrated_sqlite), inside) as studio:
        yield studio


def tricks(outside: Path) -> list[str]:
    up = "../" * 12
    return [
        f"{up}{outside}/secret.txt", f"{outside}/secret.txt", "../../../outside/secret.txt",
        "..\\..\\..\\outside\\secret.txt", f"{up}etc/passwd", "/etc/passwd", "//etc/passwd", "....//....//....//etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/%2e%2e/outside/secret.txt", "..%252f..%252foutside%252fsecret.txt",
        "file:///etc/passwd", "..", ".", "~root", "secret.txt\0.json", "model/../../../../outside/secret.txt",
        "link/secret.txt", "link", "run_1/../../../outside", "CON", "a" * 5000,
    ]  # fmt: skip


def foreign(opened: set[Path], own: Path) -> set[Path]:
    """What was opened outside the studio's folder and the interpreter's own places, links followed."""
    places = (own.resolve(), *USUAL)
    return {path for path in opened if not any(path.resolve().is_relative_to(place) for place in places)}


def test_the_judge_sees_a_file_that_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "own").mkdir()
    with judged() as opened:
        (tmp_path / "a").read_text()
    assert foreign(opened, tmp_path / "own") == {tmp_path / "a"}


def test_no_path_parameter_of_any_route_leads_out_of_the_folders(studio: Studio, tmp_path: Path) -> None:
    run_id, dataset_id = studio.launch(), studio.upload()["id"]
    artifacts = studio.app.state.files.artifacts_dir(run_id)
    artifacts.mkdir(parents=True)
    (artifacts / "link").symlink_to(tmp_path / "outside")
    known = {"run_id": run_id, "dataset_id": dataset_id}
    client, num_asked = studio.client(), 0
    routes = [(method, path) for method, path in list_routes(studio.app) if "{" in path and not path.endswith("/stream")]
    with judged() as opened:
        for method, path in routes:
            names = [name.split(":")[0] for name in re.findall(r"{([^}]*)}", path)]
            for target in names:
                for trick in tricks(tmp_path / "outside"):
                    values = {name: known.get(name, "some") for name in names} | {target: trick}
                    address = re.sub(r"{([^}:]*)[^}]*}", lambda found, values=values: quote(values[found[1]], safe="/%"), path)
                    answer = client.request(method, address.replace("%00", "%2500") if method != "GET" else address)
                    assert answer.status_code != 500, f"{method} {address}"
                    assert "the secret" not in answer.text
                    assert "root:" not in answer.text
                    num_asked += 1
    assert num_asked > 1000
    assert foreign(opened, tmp_path / "inside") == set()
    assert (tmp_path / "outside" / "secret.txt").read_text() == "the secret"


def test_no_name_that_a_body_gives_leads_out_of_the_folders(studio: Studio, tmp_path: Path) -> None:
    client = studio.client()
    with judged() as opened:
        for trick in tricks(tmp_path / "outside"):
            client.post("/api/v1/models", json={"source": "folder", "path": trick[:900], "kind": "policy"})
            client.post("/api/v1/models", json={"source": "hub", "name": trick[:190], "kind": "policy"})
            client.post("/api/v1/models", json={"source": "run", "run_id": trick[:60], "kind": "policy"})
            client.post(
                "/api/v1/datasets", data={"name": trick[:100]}, files={"file": (trick[:200], b'{"prompt": "a", "chosen": "b"}')}
            )
    assert foreign(opened, tmp_path / "inside") == set()
    assert {path.name for path in tmp_path.iterdir()} == {"inside", "outside"}
    assert len(list((tmp_path / "outside").iterdir())) == 3


def test_a_link_in_a_model_folder_is_not_followed_out_of_it(studio: Studio, tmp_path: Path) -> None:
    folder = studio.settings.model_roots[0] / "linked"
    shutil.copytree(tmp_path / "outside", folder)
    (folder / "config.json").symlink_to(tmp_path / "outside" / "spec.json")
    with judged() as opened:
        answer = studio.client().post("/api/v1/models", json={"source": "folder", "path": str(folder), "kind": "policy"})
    assert answer.status_code == 422
    assert "the secret" not in answer.text
    assert foreign(opened, tmp_path / "inside") == set()
