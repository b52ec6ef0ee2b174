"""Where turns end: found in what a chat template writes behind them."""

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

CALLED = ("Qzx1", "Vkw8")  # what the tool is called with
ASKS = ("user", "Hello?", "")
RESULT = ("tool", "Seen.", json.dumps({"name": "look", "tool_call_id": "lookcall0"}))
LOOK: dict[str, Any] = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}
TOOLS = json.dumps([{"type": "function", "function": LOOK}])

Write = Callable[
    [Sequence[tuple[str, str, str]], str], str
]  # turns and tools → what the template writes; "" where it refuses them


class Ending(NamedTuple):
    """How a turn ends: all that follows what is said, and its part up to and including the end of the turn."""

    after: str
    end: str


def find_end(after: str, earlier: str, added: Collection[str]) -> str:
    """Return what ends a turn: of what follows every answer, all up to its last added token.

    `after` follows the last turn, `earlier` one before it. Where they have no such token in common, up to the first of the
    last turn's; all that follows where there is none.
    """
    common = after[: count_same(after, earlier)]
    found = [token for token in added if token.strip() and token in after]
    ends = [common.rfind(token) + len(token) for token in found if token in common]
    if ends:
        return after[: max(ends)]
    places = [(after.find(token), len(token)) for token in found]
    if not places:
        return after
    start = min(place for place, _ in places)
    return after[: start + max(size for place, size in places if place == start)]


def find_call_ending(write: Write, added: Collection[str]) -> Ending | None:
    """Return how turns end that call tools: in one added token, written once however many calls there are; None otherwise."""
    whole, longer = (write([ASKS, _call(CALLED[0]), *more], TOOLS) for more in ((), (RESULT,)))
    if CALLED[0] not in whole:
        return None
    after = whole.rpartition(CALLED[0])[2]
    end = find_end(after, longer.rpartition(CALLED[0])[2], added)
    token = max((token for token in added if token.strip() and end.endswith(token)), key=len, default="")
    if not token or write([ASKS, _call(*CALLED)], TOOLS).count(token) > whole.count(token):
        return None
    return Ending(after[len(end) - len(token) :], token)


def _call(*arguments: str) -> tuple[str, str, str]:
    """Return a turn that calls the tool once with each of these."""
    calls = [
        {"type": "function", "id": f"lookcall{k}", "function": {"name": LOOK["name"], "arguments": {"at": argument}}}
        for k, argument in enumerate(arguments)
    ]
    return "assistant", "", json.dumps({"tool_calls": calls})


def count_same(text: str, other: str) -> int:
    """Return how many characters both begin with."""
    return next((k for k, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
