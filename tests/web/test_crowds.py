"""Many at once: nobody waits for a thread that waits for somebody."""

import asyncio

import httpx
from sqlalchemy import event

from app.web.dependencies import NUM_IDENTIFIED


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
