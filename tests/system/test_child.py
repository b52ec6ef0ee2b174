"""Children that answer JSON lines, whatever becomes of them."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from app.system import child as children
from app.system.child import Child, ReplyLost, ask_once

SERVE = """
import json, os, sys, time
from app.system.child import read_jobs
for line, reply in read_jobs({idle}):
    job = json.loads(line)
    {do}
"""


def command(do: str, idle: str = "None") -> list[str]:
    return [sys.executable, "-c", SERVE.format(do=do, idle=idle)]


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    started: list[Child] = []

    def start_one(*options: str) -> Child:
        started.append(Child(command(*options)))
        return started[-1]

    yield start_one
    for child in started:
        child.stop()


def test_one_child_answers_job_after_job_whatever_is_printed_meanwhile(start: Callable[..., Child]) -> None:
    child = start("print('by accident'); reply({'pid': os.getpid(), 'text': job['text']})")
    texts = ["λ 🙂", "a\ud800\0b", "x" * 3 * 2**20]
    assert [child.ask({"text": text}, 60) for text in texts] == [{"pid": child.pid, "text": text} for text in texts]
    assert child.alive


@pytest.mark.parametrize(
    ("do", "why", "status"),
    [
        ("sys.exit(3)", "ended", 3),
        ("os.kill(os.getpid(), 9)", "ended", -9),
        ("reply([1])", "unreadable", None),
        ("os.write(3, b'{no json\\n')", "unreadable", None),
        ("reply({'text': 'x' * 2**21})", "large", None),
    ],
)
def test_a_lost_reply_says_why(
    start: Callable[..., Child], monkeypatch: pytest.MonkeyPatch, do: str, why: str, status: int | None
) -> None:
    monkeypatch.setattr(children, "MAX_REPLY_BYTES", 2**20)
    child = start(do)
    with pytest.raises(ReplyLost) as lost:
        child.ask({}, 60)
    assert (lost.value.why, lost.value.status) == (why, status)


def test_a_child_that_takes_too_long_is_ended(start: Callable[..., Child]) -> None:
    child = start("time.sleep(600)")
    with pytest.raises(ReplyLost) as lost:
        child.ask({}, 0.3)
    assert lost.value.why == "late"
    assert not child.alive


def test_who_waits_is_called_meanwhile_and_may_give_up(start: Callable[..., Child]) -> None:
    class GivenUp(Exception):
        pass

    def give_up() -> None:
        raise GivenUp

    child = start("time.sleep(600)")
    with pytest.raises(GivenUp):
        child.ask({}, 600, give_up)


def test_a_child_is_heard_however_many_files_are_open(start: Callable[..., Child]) -> None:
    """As when thousands of connections are held."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 2000:
        pytest.skip(f"no more than {before[1]} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, before[1]))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert start("reply(json.loads(line))").ask({"a": 1}, 60) == {"a": 1}
    finally:
        for one in held:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_child_leaves_when_nothing_is_asked_for_a_while(start: Callable[..., Child]) -> None:
    idle = start("reply({})", "0.01")
    deadline = time.monotonic() + 60
    while idle.alive:
        assert time.monotonic() < deadline, "it is still there after 60 s"
        time.sleep(0.02)
    with pytest.raises(ReplyLost) as lost:
        idle.ask({}, 60)
    assert (lost.value.why, lost.value.status) == ("ended", 0)


def test_a_child_for_one_job_is_gone_afterwards() -> None:
    pid = ask_once(command("reply({'pid': os.getpid()})"), {}, 60)["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
