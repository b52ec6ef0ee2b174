"""`make box` on a machine without the servers."""

import sys

import pytest

from tests.box import __main__ as command


def test_a_server_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["python -m tests.box"])
    monkeypatch.setattr(command, "find_postgresql", lambda: None)
    monkeypatch.setattr(command, "find_redis", lambda: "/usr/bin/redis-server")
    with pytest.raises(
        SystemExit, match=r"needs postgresql, which is not installed here\. On Debian: apt-get install postgresql$"
    ):
        command.main()
