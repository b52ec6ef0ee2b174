"""What a message carries beside its text and templates may write: tool calls, names, reasoning; and its content's parts."""

import json
from typing import Any, NamedTuple

from app.ingest import rows
from app.ingest.rows import Dropped
from app.ingest.texts.plain import clean_text
from app.ingest.texts.written import read_literal

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
CALL_KEYS = ("tool_calls", "function_call")
NAME_KEYS = ("tool_call_id", "name")
PART_TEXTS = ("text", "value", "content", "thinking")
OTHER_MEDIA = ("image", "video", "audio")  # in a part's type or keys; columns of these names hold them too
MEDIA_COLUMNS = tuple(name + plural for name in OTHER_MEDIA for plural in ("", "s"))
MARKS = tuple(f"<{name}>" for name in OTHER_MEDIA)
MOST_NESTED = 5
CALL_PART, RESULT_PART = "tool_use", "tool_result"
PART_KEYS = {CALL_PART: ("type", "id", "name", "input"), RESULT_PART: ("type", "tool_use_id", "content")}


class Parts(NamedTuple):
    """A content that came in parts."""

    text: str
    reasoning: str


def join_parts(parts: list[Any], depth: int = 0) -> Parts:
    """Return the texts of content parts, one behind the other, those of thoughts apart. Raises Dropped for anything else."""
    text, reasoning = "", ""
    for part in parts:
        kind, inner = read_part(part)
        if isinstance(inner, dict | list):
            if depth == MOST_NESTED:
                raise Dropped(rows.TOO_DEEP)
            found = join_parts(inner if isinstance(inner, list) else [inner], depth + 1)
        else:
            found = Parts(clean_text(inner), "")
        if kind in ("thinking", "reasoning"):
            reasoning += found.text
        else:
            text, reasoning = text + found.text, reasoning + found.reasoning
    return Parts(text, reasoning)


def is_kind(part: Any, kind: str) -> bool:
    """Return whether a part of a message's content is of this type."""
    return isinstance(part, dict) and part.get("type") == kind


def split_calls(parts: list[Any]) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the parts of a content that are no tool calls, and those that are."""
    return [part for part in parts if not is_kind(part, CALL_PART)], [part for part in parts if is_kind(part, CALL_PART)]


def read_part(part: Any) -> tuple[str, Any]:
    """Return a part's type and what it holds: text, or further parts."""
    if isinstance(part, str | list):
        return "text", part
    if not isinstance(part, dict):
        raise Dropped(rows.NOT_TEXT)
    kind = str(part.get("type") or "text").lower()
    if any(word in kind for word in OTHER_MEDIA) or any(part.get(key) for key in (*OTHER_MEDIA, "image_url")):
        raise Dropped(rows.MEDIA)
    inner = part.get(part_key(part))
    if inner is None and "text" in kind:
        raise Dropped(rows.naming(rows.EMPTY_PART, ", ".join(map(str, part))))
    if inner is None:
        raise Dropped(rows.naming(rows.OTHER_PART, kind))
    return kind, inner


def is_result(content: list[Any] | dict[str, Any]) -> bool:
    """Return whether a tool's content is its result as data: at least one value that is neither text nor a part of a message."""
    items = content if isinstance(content, list) else [content]
    return any(not isinstance(item, str | list) and not is_part(item) for item in items)


def is_part(item: Any) -> bool:
    """Return whether a value is an object as messages have them for parts: with a type, or a text and nothing else."""
    return isinstance(item, dict) and ("type" in item or (bool(item) and set(item) <= set(PART_TEXTS)))


def part_key(part: dict[str, Any]) -> str:
    """Return the name under which a part holds its text; "" when it holds none."""
    return next((key for key in PART_TEXTS if part.get(key) is not None), "")


def refuse_media(row: dict[str, Any], cells: dict[str, Any]) -> None:
    """Raise Dropped for a row with pictures, films or sounds: lists of them, or a column of them and its mark in a text."""
    for name in MEDIA_COLUMNS:
        value = row.get(name)
        if value and (not isinstance(value, str) or any(map(holds_mark, cells.values()))):
            raise Dropped(rows.MEDIA)


def holds_mark(value: Any) -> bool:
    """Return whether a text, or a list's or message's first level, holds the mark of a picture, film or sound."""
    if isinstance(value, str):
        return any(mark in value for mark in MARKS)
    if isinstance(value, dict):
        return any(holds_mark(inner) for inner in value.values() if isinstance(inner, str))
    return isinstance(value, list) and any(holds_mark(inner) for inner in value if isinstance(inner, str | dict))


def read_fields(value: dict[str, Any], reasoning: str = "") -> str | None:
    """Return what a message carries beside its text, as the internal form has it; None when nothing."""
    kept: dict[str, Any] = {}
    if calls := value.get(calls_key(value)):
        kept["tool_calls"] = read_calls(calls)
    for key in NAME_KEYS:
        if name := value.get(key):
            kept[key] = clean_text(name)
    thought = value.get(thought_key(value)) or reasoning
    if thought.strip():
        kept["reasoning_content"] = thought
    return write_compact(kept) if kept else None


def calls_key(value: dict[str, Any]) -> str:
    """Return the name under which a message holds its tool calls."""
    return CALL_KEYS[0] if value.get(CALL_KEYS[0]) else CALL_KEYS[1]


def thought_key(value: dict[str, Any]) -> str:
    """Return the name under which a message holds its reasoning as a text; "" when it holds none."""
    texts = [key for key in REASONING_KEYS if isinstance(value.get(key), str)]
    return next((key for key in texts if value[key]), "")


def read_calls(value: Any) -> list[dict[str, Any]]:
    """Return tool calls, each with its function's name and its arguments as an object, from the forms that are about: a list,
    one object, either written as JSON; the function inside or the call flat. Raises Dropped.
    """
    found = read_json(value)
    calls = [found] if isinstance(found, dict) else found
    if not isinstance(calls, list) or not calls:
        raise Dropped(rows.BAD_CALL)
    return [read_call(call) for call in calls]


def read_call(call: Any) -> dict[str, Any]:
    """Return one tool call as templates expect it."""
    inner = read_json(call.get("function", call)) if isinstance(call, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise Dropped(rows.BAD_CALL)
    arguments = read_json(next((inner[key] for key in ("arguments", "parameters", "input") if inner.get(key) is not None), {}))
    kept: dict[str, Any] = {"type": "function", "function": {"name": inner["name"], "arguments": arguments}}
    if call.get("id"):
        kept["id"] = call["id"]
    return kept


def read_tools(value: Any) -> str | None:
    """Return the descriptions of tools that a row carries, as a JSON list; None when there are none. Raises Dropped."""
    if not value:
        return None
    found = read_json(value)
    tools = [found] if isinstance(found, dict) else found
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Dropped(rows.BAD_TOOLS)
    return write_compact([{"type": "function", "function": tool} if is_bare(tool) else tool for tool in tools]) if tools else None


def is_bare(tool: dict[str, Any]) -> bool:
    """Return whether a description is that of a function alone, without its envelope."""
    return "name" in tool and "function" not in tool and tool.get("type", "function") == "function"


def read_json(value: Any) -> Any:
    """Return what a text holds as JSON, or as Python prints lists and objects; anything else, and other texts, as they are."""
    if not isinstance(value, str):
        return value
    if value.lstrip()[:1] in ("[", "{"):
        found = read_literal(value)
        return value if found is None else found
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def write_compact(value: Any) -> str:
    """Return JSON without blanks, keys in their order. Raises Dropped for what JSON does not have or no text may hold."""
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str)
    except (ValueError, TypeError) as error:
        raise Dropped(rows.NAN) from error
    if "\\u0000" in text:
        raise Dropped(rows.NUL)
    return clean_text(text)
