"""Starts that can't be: web, worker and `varstudio up` end with a sentence; and who a user is behind a reverse proxy."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from app.domain.errors import Unavailable
from app.main import create_app
from app.settings import Settings
from app.store.files.files import make_root
from app.system.child import Child
from tests import warm
from tests.architecture.tree import ROOT
from tests.cli.test_cli import make_shell
from tests.flow.studio import free_port
from tests.waiting import END_SECONDS, wait_until
from tests.web.conftest import URL, make_settings

pytestmark = pytest.mark.process

NOBODY = 65534
UNWRITABLE = "/sys/studio"  # of the kernel: not even root can make a folder there
WEB = ("uvicorn", "--factory", "app.main:create_app")
REFUSED = [
    ({"STUDIO_PUBLIC_URL": "https://example.org/studio"}, "can't live below a path"),
    ({"STUDIO_PUBLIC_URL": "studio"}, "not an address like https://studio.example.org"),
    ({"STUDIO_DATA_DIR": UNWRITABLE}, f"Nothing can be kept in the data folder {UNWRITABLE}"),
    ({"STUDIO_STORE_URL": "s3:/bucket"}, "STUDIO_STORE_URL must be a URL"),
    ({"STUDIO_PORT": "many"}, "STUDIO_PORT: "),
    ({"FORWARDED_ALLOW_IPS": "10.0.0.1/8"}, "FORWARDED_ALLOW_IPS: 10.0.0.1/8 has host bits set; a proxy is an address"),
]


def environment(folder: Path, **variables: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "STUDIO_DATA_DIR": str(folder / "var"), **variables}


def refusal(folder: Path, *command: str, **variables: str) -> str:
    """What a process that does not start says."""
    with warm.forking():
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=folder, env=environment(folder, **variables),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(("variables", "words"), REFUSED)
def test_a_web_that_can_not_start_says_why(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    assert words in refusal(tmp_path, *WEB, "--port", str(free_port()), **variables)


@pytest.mark.parametrize(("variables", "words"), REFUSED)
def test_up_says_why_it_does_not_start(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    assert words in make_shell(tmp_path).fails("up", "--no-worker", **{"STUDIO_PORT": str(free_port()), **variables})


def test_a_worker_that_can_keep_nothing_says_so(tmp_path: Path) -> None:
    told = refusal(tmp_path, "worker.main", STUDIO_DATA_DIR=UNWRITABLE)
    assert f"Nothing can be kept in the data folder {UNWRITABLE}" in told
    assert "STUDIO_DATA_DIR" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user, which only root can become")
def test_a_folder_of_somebody_else_is_refused() -> None:
    with tempfile.TemporaryDirectory(prefix="studio-") as name:
        Path(name).chmod(0o755)
        os.seteuid(NOBODY)
        try:
            with pytest.raises(Unavailable, match="Permission denied"):
                make_root(Path(name))
        finally:
            os.seteuid(0)


@pytest.fixture
def proxied(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A web process that trusts the proxies of the parameter."""
    port = free_port()
    variables = environment(tmp_path, FORWARDED_ALLOW_IPS=request.param)
    web = warm.Popen([sys.executable, "-m", *WEB, "--port", str(port), "--log-level", "error"], env=variables, cwd=tmp_path)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            wait_until(lambda: web.poll() is not None or answers(client), seconds=60, what="the start of the web")
            yield client
    finally:
        web.terminate()
        web.wait(END_SECONDS)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def guess(client: httpx.Client, address: str) -> int:
    return client.post("/login", data={"secret": "guess"}, headers={"x-forwarded-for": address}).status_code


@pytest.mark.parametrize("proxied", ["127.0.0.1", "127.0.0.0/8"], indirect=True)
def test_behind_a_trusted_proxy_everybody_has_a_login_limit_of_their_own(proxied: httpx.Client) -> None:
    assert [guess(proxied, "198.51.100.7") for _ in range(11)] == [401] * 10 + [429]
    assert guess(proxied, "198.51.100.8") == 401


@pytest.mark.parametrize("proxied", ["192.0.2.1"], indirect=True)
def test_who_is_no_proxy_can_not_choose_an_address(proxied: httpx.Client) -> None:
    assert [guess(proxied, f"198.51.100.{number}") for number in range(11)] == [401] * 10 + [429]


def test_the_proxies_of_the_settings_are_those_of_uvicorn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.commands.up import child_environment

    (tmp_path / ".env").write_text("FORWARDED_ALLOW_IPS=10.0.0.5, 10.1.0.0/16\n")
    monkeypatch.chdir(tmp_path)
    assert child_environment(Settings())["FORWARDED_ALLOW_IPS"] == "10.0.0.5,10.1.0.0/16"


def test_a_start_that_is_refused_half_way_leaves_no_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Child] = []

    def start(command: tuple[str, ...]) -> Child:
        started.append(Child(command))
        return started[-1]

    def refuse(*_: object) -> None:
        raise Unavailable("The database is busy with another change: try again in a few seconds.")

    monkeypatch.setattr("app.ingest.pool.Child", start)
    monkeypatch.setattr("app.main.datasets.resume_processing", refuse)
    with pytest.raises(Unavailable), TestClient(create_app(make_settings(tmp_path)), base_url=URL):
        pass
    assert [child.alive for child in started] == [False, False]
