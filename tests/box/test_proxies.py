"""The reverse proxies of docs/operations.md, by the very lines written there: what they must let through to the web."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.architecture.tree import ROOT
from tests.box.tiny import write_models, write_pairs
from tests.flow.studio import free_port, wait_until

NAME = "studio.example.org"
UPLOAD_BYTES = 100 * 10**6


@dataclass(frozen=True)
class Proxied:
    """A web behind a proxy; `secret` signs in once, `token` as often as one likes."""

    url: str
    secret: str
    token: str
    folder: Path

    def client(self, address: str = "127.0.0.1", **headers: str) -> httpx.Client:
        """A client that comes from one of this machine's own addresses and knows the proxy by its name."""
        transport = Named(verify=False, local_address=address)  # the certificate is this test's own
        return httpx.Client(base_url=self.url, transport=transport, timeout=60, headers=headers)


class Named(httpx.HTTPTransport):
    """Finds the proxy's name on this machine."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        here = httpx.Request(
            request.method, request.url.copy_with(host="127.0.0.1"), headers=request.headers, stream=request.stream,
            extensions={**request.extensions, "sni_hostname": NAME},
        )  # fmt: skip
        return super().handle_request(here)


def example(language: str) -> str:
    """The block of docs/operations.md in this language."""
    block = re.search(rf"```{language}\n(.*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    assert block is not None
    return block[1]


def nginx(folder: Path, port: int, web_port: int) -> list[str]:
    """The command that serves the example from `folder`."""
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-subj", f"/CN={NAME}", "-days", "1"]
    subprocess.run(["openssl", "req", "-x509", *key], cwd=folder, check=True, capture_output=True)
    text = example("nginx").replace("443", str(port)).replace("8400", str(web_port))
    text = re.sub(r"/etc/ssl/\S+\.(pem|key);", lambda found: f"{folder}/{'cert' if found[1] == 'pem' else 'key'}.pem;", text)
    places = "".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"pid {folder}/pid; error_log stderr; daemon off; events {{}} http {{ access_log off; {places}\n{text}}}"
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, port: int, web_port: int) -> list[str]:
    """The command that serves the example from `folder`, with a certificate of its own authority."""
    text = example("caddy").replace(NAME, f"{NAME}:{port}", 1).replace("8400", str(web_port)).replace("{", "{\n\ttls internal", 1)
    options = f"{{\nadmin off\nskip_install_trust\nauto_https disable_redirects\nstorage file_system {folder}\n}}\n"
    (folder / "Caddyfile").write_text(options + text)
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@pytest.fixture(scope="module", params=[nginx, caddy], ids=lambda proxy: proxy.__name__)
def proxied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """A web without a worker behind the proxy."""
    name = request.param.__name__
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {name})")
    folder = tmp_path_factory.mktemp(name)
    folder.parent.parent.chmod(0o755)
    port, web_port = free_port(), free_port()
    url = f"https://{NAME}:{port}"
    write_models(folder)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder),
        "STUDIO_DATA_DIR": str(folder / "var"), "STUDIO_PUBLIC_URL": url, "STUDIO_MODEL_ROOTS": str(folder),
    }  # fmt: skip
    log = (folder / "log.txt").open("w")
    web_command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(web_port)]
    commands = (web_command, request.param(folder, port, web_port))
    processes = [
        subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT) for command in commands
    ]
    try:
        told = lambda: (folder / "log.txt").read_text()  # noqa: E731
        secret = wait_until(lambda: re.search(r"/login/(\S+)", told()), seconds=60, what="the start of the web")[1]
        made = subprocess.run(
            [sys.executable, "-m", "app.cli", "tokens", "create"], cwd=folder, env=environment, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        studio = Proxied(url, secret, made.stdout.strip(), folder)
        with studio.client() as client:
            wait_until(lambda: answers(client), seconds=30, what=f"the start of {name}")
        yield studio
    finally:
        for process in processes:
            process.terminate()
            process.wait(20)
        log.close()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_browser_signs_in_and_its_cookie_stays_with_tls(proxied: Proxied) -> None:
    with proxied.client(origin=proxied.url) as browser:
        answer = browser.post(f"/login/{proxied.secret}")
        assert answer.status_code == 303, answer.text
        assert "Secure" in answer.headers["set-cookie"]
        assert browser.get("/").status_code == 200


def test_an_upload_of_100_mb_goes_through(proxied: Proxied) -> None:
    row = b'{"prompt": "?", "chosen": "%s", "rejected": "no"}\n' % (b"yes " * 250_000)
    with proxied.client(authorization=f"Bearer {proxied.token}") as client:
        content = row * (UPLOAD_BYTES // len(row) + 1)
        assert len(content) > UPLOAD_BYTES
        answer = client.post("/api/v1/datasets", files={"file": ("large.jsonl", content)})
    assert answer.status_code == 201, answer.text


def test_a_live_stream_is_not_held_back(proxied: Proxied) -> None:
    """The run waits for a worker: its first events come though nothing follows them."""
    with proxied.client(authorization=f"Bearer {proxied.token}") as client:
        with write_pairs(proxied.folder / "pairs.jsonl").open("rb") as file:
            dataset = client.post("/api/v1/datasets", files={"file": ("pairs.jsonl", file)}).json()["id"]
        wait_until(lambda: client.get(f"/api/v1/datasets/{dataset}").json()["state"] == "ready", seconds=60, what="reading")
        source = {"source": "folder", "path": str(proxied.folder / "tiny-policy"), "kind": "policy"}
        model = client.post("/api/v1/models", json=source).json()["id"]
        recipe = {"dataset": dataset, "policy": {"model": model}, "weights": {"lambda": 1.0}}
        launched = client.post("/api/v1/runs", json=recipe)
        assert launched.status_code == 202, launched.text
        with client.stream("GET", f"/api/v1/runs/{launched.json()['id']}/stream", timeout=10) as stream:
            assert next(line for line in stream.iter_lines() if line.startswith("data:"))


def test_everybody_has_a_login_limit_of_their_own_and_nobody_chooses_an_address(proxied: Proxied) -> None:
    def guess(client: httpx.Client) -> int:
        return client.post("/login", data={"secret": "guess"}, headers={"x-forwarded-for": "198.51.100.7"}).status_code

    with proxied.client("127.0.0.2") as one, proxied.client("127.0.0.3") as other:
        assert [guess(one) for _ in range(11)] == [401] * 10 + [429]
        assert guess(other) == 401
