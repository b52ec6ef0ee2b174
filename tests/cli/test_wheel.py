"""The wheel: it holds all that the studio needs, and works from an empty folder without the repository."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import httpx
import pytest

from app import assets
from app.system.installation import VENDORED
from tests.architecture.tree import ROOT, list_files, read
from tests.cli.test_installation import WITHOUT_TORCH
from tests.flow.studio import free_port
from tests.waiting import END_SECONDS, wait_until

NOWHERE = "http://127.0.0.1:9"  # npm and pip must not even ask
FOLDERS = ("templates", "static", "migrations")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not assets.is_current():
        pytest.skip("the pages' JavaScript is not installed: python -m app.assets")
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's packages, which come before those of the checkout."""
    target = tmp_path_factory.mktemp("site-packages")
    pip("install", str(wheel), "--no-deps", "--target", str(target))
    return target


def pip(*arguments: str) -> None:
    environment = {**os.environ, "npm_config_registry": NOWHERE, "PIP_NO_INDEX": "1"}
    command = [sys.executable, "-m", "pip", "--quiet", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def own_environment(installed: Path, folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "STUDIO_DATA_DIR": str(folder / "var")}


def test_the_wheel_holds_pages_libraries_and_migrations(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"app/{path.as_posix()}" for path in list_files() if path.parts[0] in FOLDERS and not path.name.startswith("package")
    }
    wanted |= {f"app/static/vendor/{name}" for name in (*assets.SERVED, *assets.LICENSES)}
    assert wanted - inside == set()
    assert set(VENDORED) == set(assets.SERVED)


def test_the_wheel_holds_nothing_of_the_workshop(wheel: Path) -> None:
    inside = [Path(name) for name in zipfile.ZipFile(wheel).namelist()]
    assert {path.parts[0].split("-")[0] for path in inside} == {"app", "worker", "var_studio"}
    assert [path for path in inside if {"node_modules", "__pycache__", "tests"} & set(path.parts)] == []
    assert {path.name for path in inside} & {"Dockerfile", "package.json", "wheel.py", "assets.py"} == set()


def test_the_sdist_holds_nothing_else_that_lies_in_the_checkout(wheel: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for path in [*list_files(), Path("LICENSE")]:
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, checkout / path)
    shutil.copytree(ROOT / "static" / "vendor", checkout / "static" / "vendor")
    for stray in ("env/bin/python", "data/secrets.jsonl", "notes.txt"):
        (checkout / stray).parent.mkdir(parents=True, exist_ok=True)
        (checkout / stray).write_text("mine")
    build = f"from hatchling.build import build_sdist; print(build_sdist({str(tmp_path)!r}))"
    environment = {**os.environ, "npm_config_registry": NOWHERE}
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / done.stdout.split()[-1]) as sdist:
        inside = {Path(*Path(name).parts[1:]) for name in sdist.getnames()}
    assert {path.parts[0] for path in inside} & {"env", "data", "notes.txt"} == set()
    assert {path for path in list_files() if path.parts[0] in (*FOLDERS, "app", "worker", "tests")} - inside == set()


def test_the_installed_studio_serves_its_own_pages_without_checkout_and_torch(installed: Path, tmp_path: Path) -> None:
    port = free_port()
    environment = {**own_environment(installed, tmp_path), "STUDIO_PORT": str(port)}
    put_strangers(tmp_path)
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-P", "-c", f"{WITHOUT_TORCH}from app.cli import run; raise SystemExit(run(['up']))"]
        studio = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(url, studio), seconds=60, what="the studio answers")
        token = (tmp_path / "var" / "cli-token").read_text()
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=30) as client:
            for path in ("/", "/static/studio.css", *(f"/static/vendor/{name}" for name in VENDORED)):
                assert client.get(path).status_code == 200, path
            pairs = '{"prompt": "Q?", "chosen": "yes", "rejected": "no"}\n' * 3
            data = client.post("/api/v1/datasets", files={"file": ("pairs.jsonl", pairs)}).json()["id"]
            assert "yes" in client.get(f"/datasets/{data}").text  # read by children of their own
    finally:
        studio.send_signal(signal.SIGTERM)
        status = studio.wait(END_SECONDS)
    said = (tmp_path / "log").read_text()
    assert status == 0, said
    assert "The studio starts without a worker: no_such_package is not installed here. To train here: pip install 'var-" in said


def put_strangers(folder: Path) -> None:
    """Packages of the same names in the folder where the studio is started."""
    for name in ("app", "worker"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('a stranger')")


def answers(url: str, studio: "subprocess.Popen[bytes]") -> bool:
    assert studio.poll() is None
    try:
        return httpx.get(f"{url}/healthz", verify=False).status_code == 200
    except httpx.TransportError:
        return False


def test_the_installed_code_runs_and_knows_that_it_is_no_checkout(installed: Path, tmp_path: Path) -> None:
    program = (
        "import json, app.system.installation as here; from app.services.provenance import own_revision; "
        "print(json.dumps([str(here.ROOT), here.is_checkout(), here.list_missing_files(), own_revision()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=own_environment(installed, tmp_path), capture_output=True, check=True
    )
    assert json.loads(done.stdout) == [str(installed), False, [], None]


def test_the_version_stands_in_one_place_and_the_images_follow_it() -> None:
    version = tomllib.loads(read(Path("pyproject.toml")))["project"]["version"]
    tags = [line.rsplit(":", 1)[1] for line in read(Path("docker-compose.yml")).splitlines() if "image: var-studio" in line]
    assert set(tags) == {version}
