"""The terminal's client, whose requests stay within the process."""

from contextlib import contextmanager

import pytest

from app.cli import run
from app.commands.client import Client, check
from tests.web.conftest import client as client
from tests.web.conftest import studio as studio


@pytest.fixture
def terminal(client, monkeypatch):
    """Commands speak to the studio of the test."""

    def send(_self, method, path, **options):
        response = client.request(method, f"/api/v1{path}", **options)
        check(response)
        return response

    @contextmanager
    def stream(self, path, headers=None, timeout_seconds=60.0):
        yield send(self, "GET", path, headers=headers)

    monkeypatch.setattr(Client, "__init__", lambda _self, _settings: None)
    monkeypatch.setattr(Client, "send", send)
    monkeypatch.setattr(Client, "stream", stream)


@pytest.fixture
def told(terminal, capsys):
    """Return what a command prints, which succeeds."""

    def tell(*arguments: str) -> str:
        assert run(list(arguments)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return tell


@pytest.fixture
def refused(terminal, capsys):
    """Return what a command says that fails."""

    def tell(*arguments: str) -> str:
        assert run(list(arguments)) == 1
        return capsys.readouterr().err

    return tell
