"""A whole web application for the tests: the real app, in a temporary folder, spoken to as a token, a browser or nobody."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.domain.dataset import Audit
from app.main import create_app
from app.services import accounts
from app.settings import Settings
from app.store.accounts import get_user
from app.store.database import now
from app.store.tables import Dataset, Model
from app.web.connections import Connection
from tests.warm import forking
from tests.web.client import Client

URL = "http://127.0.0.1:8400"
PAIRS = "".join(
    json.dumps({"prompt": f"Question {n}?", "chosen": f"Kind answer {n}.", "rejected": f"Rude answer {n}."}) + "\n"
    for n in range(30)
)


@dataclass
class Studio:
    """The app while it lives, and ways to speak to it."""

    app: FastAPI
    settings: Settings
    models: Path
    token: str
    portal: BlockingPortal

    @property
    def database(self) -> Any:
        return self.app.state.database

    def client(self, token: str | None = None, **headers: str) -> TestClient:
        """Somebody with a bearer token; the administrator's unless given, nobody's when empty."""
        chosen = self.token if token is None else token
        given = {"authorization": f"Bearer {chosen}"} if chosen else {}
        client = Client(self.app, base_url=URL, headers={**given, **headers}, follow_redirects=False)
        client.portal = self.portal  # one event loop for all requests, as a server has; else each makes one, and threads
        return client

    def browser(self) -> TestClient:
        """A browser that has signed in as the administrator, and sends what browsers send."""
        browser = self.client("", origin=URL)
        assert browser.post(f"/login/{self.login_secret()}").status_code == 303
        return browser

    def login_secret(self, name: str = "admin") -> str:
        with self.database.writing() as session:
            return accounts.create_login_link(session, get_user(session, name))

    def make_token(self, name: str = "admin", scope: str = "write") -> str:
        with self.database.writing() as session:
            return accounts.create_token(session, get_user(session, name), "test", scope)

    def upload(self, content: str | bytes = PAIRS, filename: str = "pairs.jsonl", **fields: str) -> Any:
        response = self.client().post("/api/v1/datasets", files={"file": (filename, content)}, data=fields)
        assert response.status_code == 201, response.text
        return response.json()

    def ingredients(self) -> dict[str, Any]:
        """A recipe of a ready data set and a policy that no file stands behind: enough to launch."""
        with self.database.writing() as session:
            owner = get_user(session, "admin")
            if session.get(Dataset, "data_pairs") is None:
                audit = Audit(
                    num_rows=9,
                    num_kept_rows=9,
                    num_examples=9,
                    num_responses=18,
                    num_pairs=9,
                    has_preference=True,
                    has_rating=True,
                )
                session.add(
                    Dataset(
                        id="data_pairs", owner_id=owner.id, name="Pairs", state="ready", filename="pairs.jsonl", size_bytes=9,
                        sha256="d" * 64, audit=audit.model_dump(mode="json"), num_examples=9, created_at=now(session),
                    )
                )  # fmt: skip
                session.add(
                    Model(
                        id="model_policy", owner_id=owner.id, name="Small", kind="policy", source="hub", path="small/policy",
                        revision=None, facts={}, created_at=now(session),
                    )
                )  # fmt: skip
        return {"dataset": "data_pairs", "policy": {"model": "model_policy"}, "weights": {"lambda": 0.5}}

    def launch(self, **changes: Any) -> str:
        response = self.client().post("/api/v1/runs", json={**self.ingredients(), **changes})
        assert response.status_code == 202, response.text
        return str(response.json()["id"])


def make_settings(folder: Path, **changes: Any) -> Settings:
    models = folder / "models"
    models.mkdir(exist_ok=True)
    return Settings(_env_file=None, **{"data_dir": folder / "var", "model_roots": [models], **changes})


def make_app(folder: Path, tables: Path, **changes: Any) -> FastAPI:
    """The app on a copy of these tables, which are empty."""
    shutil.copytree(tables, folder / "var")
    return create_app(make_settings(folder, **changes))


@contextmanager
def opened(app: FastAPI, folder: Path) -> Iterator[Studio]:
    """The studio of an app that is started here, whose children are forked."""
    with forking(), TestClient(app, base_url=URL), grown(app, folder) as studio:
        yield studio


@contextmanager
def grown(app: FastAPI, folder: Path) -> Iterator[Studio]:
    """The studio of a started app, with an administrator and eve."""
    with app.state.database.writing() as session:
        token = accounts.create_token(session, accounts.ensure_admin(session), "test")
        accounts.create_user(session, "eve")
    with start_blocking_portal() as portal:
        yield Studio(app, app.state.settings, folder / "models", token, portal)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Studio]:
    """One for all tests of a module."""
    folder = tmp_path_factory.mktemp("studio")
    with opened(make_app(folder, migrated_sqlite, max_upload_bytes=3_000_000), folder) as studio:
        yield studio


@pytest.fixture
def client(studio: Studio) -> TestClient:
    """The administrator with a token."""
    return studio.client()


@pytest.fixture
def eve(studio: Studio) -> TestClient:
    """Another user with a token of her own."""
    return studio.client(studio.make_token("eve"))


@dataclass
class Server:
    """The studio behind a real server on a port of its own."""

    studio: Studio
    url: str
    port: int


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    app = make_app(folder, migrated_sqlite, max_upload_bytes=3_000_000)
    config = uvicorn.Config(app, port=0, http=Connection, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    with forking():
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with grown(app, folder) as studio:
            yield Server(studio, f"http://127.0.0.1:{port}", port)
        server.should_exit = True
        thread.join()
