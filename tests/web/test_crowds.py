"""Many at once: nobody waits for a thread that waits for somebody."""

import asyncio
import time
from collections import Counter

import httpx
import pytest
from sqlalchemy import event

from app.domain.errors import ModelInvalid
from app.services import models, recipe_templates
from app.store import models as store
from app.web.dependencies import NUM_IDENTIFIED

pytestmark = pytest.mark.long


async def crowd(server, size: int, method: str, path: str, body=None) -> list[httpx.Response]:
    """The same request from `size` clients at once."""
    headers = {"authorization": f"Bearer {server.studio.token}"}
    limits = httpx.Limits(max_connections=size)
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60, limits=limits) as client:
        return await asyncio.gather(*(client.request(method, path, json=body) for _ in range(size)))


def test_a_hundred_launches_at_once_are_all_queued_once(server, clock):
    with clock.within(12):  # a stand-still would last as long as the database's timeout of 15 s
        answers = asyncio.run(crowd(server, 100, "POST", "/api/v1/runs", server.studio.ingredients()))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 100


def test_a_crowd_opens_no_connection_for_each_of_its_members(server) -> None:
    opened = []

    def note(*_: object) -> None:
        opened.append(1)

    event.listen(server.studio.app.state.database.engine, "connect", note)
    answers = asyncio.run(crowd(server, 100, "POST", "/api/v1/runs", {}))
    event.remove(server.studio.app.state.database.engine, "connect", note)
    assert {answer.status_code for answer in answers} == {422}
    assert len(opened) <= NUM_IDENTIFIED


def test_two_hundred_readers_at_once_are_all_answered(server, clock):
    with clock.within(12):
        answers = asyncio.run(crowd(server, 200, "GET", "/api/v1/runs"))
    assert {answer.status_code for answer in answers} == {200}


def test_models_added_at_once_are_all_added(server):
    body = {"kind": "policy", "source": "hub", "name": "small/policy"}
    answers = asyncio.run(crowd(server, 60, "POST", "/api/v1/models", body))
    assert {answer.status_code for answer in answers} == {201}


async def ask_beside(crowd: list[asyncio.Task], ask) -> int:
    """Ask for something of another's once the crowd has its first answer; return how many of the crowd wait still after that."""
    await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
    assert await ask() in (200, 201)
    return sum(not task.done() for task in crowd)


async def look_beside(server, method: str, path: str, size: int, body=None) -> tuple[list[httpx.Response], int]:
    """Let eve ask `size` times at once; return her answers, and how many she waits for still when the admin has a page."""
    eve = {"authorization": f"Bearer {server.studio.make_token('eve')}"}
    admin = {"authorization": f"Bearer {server.studio.token}"}
    limits = httpx.Limits(max_connections=size + 4)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:

        async def look() -> int:
            return (await client.get("/api/v1/runs", headers=admin)).status_code

        crowd = [asyncio.create_task(client.request(method, path, json=body, headers=eve)) for _ in range(size)]
        left = await ask_beside(crowd, look)
        return list(await asyncio.gather(*crowd)), left


def slowly(function, seconds):
    def slow(*given, **more):
        time.sleep(seconds)
        return function(*given, **more)

    return slow


def test_who_reads_much_at_once_does_not_keep_others_waiting(server, monkeypatch):
    monkeypatch.setattr(store, "list_models", slowly(store.list_models, 0.6))
    answers, left = asyncio.run(look_beside(server, "GET", "/api/v1/models", 80))
    assert {answer.status_code for answer in answers} == {200}
    assert left > 40


def test_who_writes_much_at_once_does_not_keep_others_waiting(server, monkeypatch):
    monkeypatch.setattr(recipe_templates, "create", slowly(recipe_templates.create, 0.2))

    async def case() -> tuple[list[int], int]:
        limits = httpx.Limits(max_connections=40)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:

            async def save(token: str, name: str) -> int:
                body, headers = {"name": name, "recipe": {"method": "sft"}}, {"authorization": f"Bearer {token}"}
                return (await client.post("/api/v1/recipe-templates", json=body, headers=headers)).status_code

            eve = server.studio.make_token("eve")
            crowd = [asyncio.create_task(save(eve, f"number {number}")) for number in range(20)]
            left = await ask_beside(crowd, lambda: save(server.studio.token, "of the admin"))
            return list(await asyncio.gather(*crowd)), left

    statuses, left = asyncio.run(case())
    assert set(statuses) == {201}
    assert left > 10, "the admin's comes after one or two of eve's"


def test_who_has_many_models_looked_at_does_not_keep_others_waiting(server, monkeypatch):
    """Each look is a child process of seconds, of which no more run at once than a studio can bear."""
    at_once, most = Counter(), Counter()

    def look(folder, roots):
        at_once["now"] += 1
        most["ever"] = max(most["ever"], at_once["now"])
        time.sleep(0.4)
        at_once["now"] -= 1
        raise ModelInvalid.at("path", "This is no model.")

    monkeypatch.setattr(models, "inspect_apart", look)
    (server.studio.models / "one").mkdir(exist_ok=True)
    body = {"kind": "policy", "source": "folder", "path": str(server.studio.models / "one")}
    answers, left = asyncio.run(look_beside(server, "POST", "/api/v1/models", 40, body))
    assert {answer.status_code for answer in answers} == {422}
    assert left > 20
    assert most["ever"] <= 2
