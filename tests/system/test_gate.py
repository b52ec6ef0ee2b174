"""Gates: places that those who ask take turns at."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from app.system.gate import Gate


def run(case: Coroutine[Any, Any, None]) -> None:
    asyncio.run(case)


async def come(gate: Gate, key: str, served: list[str]) -> None:
    await gate.acquire(key)
    served.append(key)


async def arrive(gate: Gate, keys: str) -> tuple[list[str], list[asyncio.Task[None]]]:
    """One after the other, each in a task of its own, as far as each gets."""
    served: list[str] = []
    tasks = []
    for key in keys:
        tasks.append(asyncio.create_task(come(gate, key, served)))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    return served, tasks


async def leave(gate: Gate, key: str) -> None:
    gate.release(key)
    for _ in range(3):
        await asyncio.sleep(0)


def test_who_comes_later_but_asks_once_is_next():
    async def case() -> None:
        gate = Gate(2, 2)
        served, _ = await arrive(gate, "aaaaaab")
        assert served == ["a", "a"]
        await leave(gate, "a")
        assert served == ["a", "a", "b"]
        await leave(gate, "b")
        assert served == ["a", "a", "b", "a"]

    run(case())


def test_nobody_has_all_places():
    async def case() -> None:
        gate = Gate(3, 2)
        served, _ = await arrive(gate, "aaab")
        assert served == ["a", "a", "b"]
        await leave(gate, "b")
        assert served == ["a", "a", "b"], "a's share is two, also where a place is free"
        await leave(gate, "a")
        assert served == ["a", "a", "b", "a"]

    run(case())


def test_users_who_ask_much_take_turns_with_each_other():
    async def case() -> None:
        gate = Gate(1, 1)
        served, _ = await arrive(gate, "aaabbbccc")
        while len(served) < 9:
            await leave(gate, served[-1])
        assert "".join(served) == "abcabcabc"

    run(case())


@pytest.mark.parametrize("moment", ["before", "just before", "just after"])
def test_who_gives_up_leaves_no_place_taken(moment):
    async def case() -> None:
        gate = Gate(1, 1)
        served, tasks = await arrive(gate, "abc")
        if moment == "just after":
            gate.release("a")  # b's place comes, and b is gone before it hears of it
            tasks[1].cancel()
        elif moment == "just before":
            tasks[1].cancel()  # b is passed over before it hears that it is gone
            gate.release("a")
        else:
            tasks[1].cancel()
            await asyncio.sleep(0)
            gate.release("a")
        for _ in range(4):
            await asyncio.sleep(0)
        assert served == ["a", "c"]
        assert tasks[1].cancelled()
        gate.release("c")
        assert (len(gate._held), len(gate._waiting), len(gate._served)) == (0, 0, 0), "nothing is kept of who is gone"

    run(case())
