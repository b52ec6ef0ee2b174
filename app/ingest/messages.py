"""Texts and message lists out of the many ways in which people write them down."""

import re
from typing import Any, NamedTuple

from app.ingest import rows
from app.ingest.rows import Dropped
from app.ingest.texts.fields import (
    CALL_KEYS,
    NAME_KEYS,
    RESULT_PART,
    calls_key,
    is_kind,
    is_result,
    join_parts,
    read_calls,
    read_fields,
    split_calls,
    thought_key,
    write_compact,
)
from app.ingest.texts.plain import clean_text
from app.ingest.texts.written import read_written


class Turn(NamedTuple):
    """One message; `fields`: see app.domain.dataset."""

    role: str
    content: str
    fields: str | None = None


USER, ASSISTANT, SYSTEM, TOOL, CALL = "user", "assistant", "system", "tool", "call"
ROLES = {
    "user": USER, "human": USER, "prompter": USER, "question": USER, "<|prompter|>": USER, "<|user|>": USER,
    "assistant": ASSISTANT, "gpt": ASSISTANT, "chatgpt": ASSISTANT, "bot": ASSISTANT, "chatbot": ASSISTANT, "model": ASSISTANT,
    "ai": ASSISTANT, "<|assistant|>": ASSISTANT, "system": SYSTEM, "<|system|>": SYSTEM, "developer": SYSTEM, "tool": TOOL,
    "function": TOOL, "observation": TOOL, "ipython": TOOL, "tool_response": TOOL, "tool_result": TOOL,
    "function_response": TOOL, "function_call": CALL, "tool_call": CALL,
}  # fmt: skip
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value", "text")
LIST_KEYS = ("messages", "conversations", "conversation")  # of an object around a list of messages
ROLE_MARKS, CONTENT_MARKS = frozenset(ROLE_KEYS), frozenset((*CONTENT_KEYS, *CALL_KEYS))
TRANSCRIPT_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
TAGGED = re.compile(r"\A(<\|(?:prompter|user|assistant|system)\|>)")


def response(value: Any) -> Turn:
    """Return a response: text, a message, or a list with one message. Raises Dropped for empty ones."""
    if value is None:
        raise Dropped(rows.MISSING_RESPONSE)
    if isinstance(value, dict):
        turn = message(value)
    elif isinstance(value, list):
        turns = message_list(value)
        if len(turns) != 1:
            raise Dropped(rows.SEVERAL_MESSAGES)
        turn = turns[0]
    else:
        turn = Turn(ASSISTANT, clean_text(value))
    if is_empty(turn):
        raise Dropped(rows.EMPTY_RESPONSE)
    return turn


def is_empty(turn: Turn) -> bool:
    """Return whether a turn says nothing: neither text nor a tool call."""
    return not turn.content.strip() and '"tool_calls":' not in (turn.fields or "")


def is_message(value: Any) -> bool:
    """Return whether a value is an object with a role and a content, or a call in its place."""
    return isinstance(value, dict) and not ROLE_MARKS.isdisjoint(value) and not CONTENT_MARKS.isdisjoint(value)


def message(value: Any) -> Turn:
    """Return a message written as {role, content}, {from, value} or {role, text}, with its other fields."""
    if not is_message(value):
        raise Dropped(rows.NOT_MESSAGES)
    role = read_role(value)
    content = value.get(content_key(value))
    if role == CALL:
        return Turn(ASSISTANT, "", write_compact({"tool_calls": read_calls(content)}))
    reasoning = ""
    if holds_parts(role, content):
        parts, calls = split_calls(content if isinstance(content, list) else [content])
        value = {**value, CALL_KEYS[0]: calls} if calls else value
        content, reasoning = join_parts(parts)
    elif isinstance(content, list | dict):
        content = write_compact(content)
    fields = read_fields(value, reasoning) if len(value) > 2 or reasoning or content is None else None
    if content is None:
        if fields is None:
            raise Dropped(rows.NO_CONTENT)
        content = ""
    return Turn(role, clean_text(content), fields)


def content_key(value: dict[str, Any]) -> str:
    """Return the name under which a message holds its content."""
    return next((key for key in CONTENT_KEYS if value.get(key) is not None), CONTENT_KEYS[0])


def role_key(value: dict[str, Any]) -> str:
    """Return the name under which a message holds its role."""
    return "from" if value.get("role") is None else "role"


def read_keys(value: dict[str, Any]) -> frozenset[str]:
    """Return the names of the fields that are read of a message; of several that mean the same, one is."""
    role, content = role_key(value), content_key(value)
    if role_of(value) == CALL:
        return frozenset((role, content))
    return frozenset((role, content, calls_key(value), thought_key(value), *NAME_KEYS))


def read_role(value: dict[str, Any]) -> str:
    """Return the role of a message by its name in the internal form. Raises Dropped, with the name, for an unknown one."""
    role = role_of(value)
    if role is None:
        raise Dropped(rows.naming(rows.UNKNOWN_ROLE, value.get(role_key(value))))
    return role


def role_of(value: dict[str, Any]) -> str | None:
    """Return the role of a message by its name in the internal form; None for an unknown one."""
    name = value.get(role_key(value))
    return ROLES.get(name) or ROLES.get(name.strip().lower()) if isinstance(name, str) else None


def holds_parts(role: str | None, content: Any) -> bool:
    """Return whether a message's content is made of parts, and neither a text, nor a call, nor a tool's result as data."""
    return isinstance(content, list | dict) and role != CALL and not (role == TOOL and is_result(content))


def message_list(value: Any) -> list[Turn]:
    """Return a conversation: a list of messages, or of texts tagged <|prompter|> and <|assistant|>."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise Dropped(rows.NOT_MESSAGES)
    return [turn for item in value for turn in ([tagged(item)] if isinstance(item, str) else messages(item))]


def messages(value: Any) -> list[Turn]:
    """Return a message, behind the results of tools among its parts, which are messages of their own."""
    content = value.get("content") if isinstance(value, dict) else None
    results = [part for part in content if is_kind(part, RESULT_PART)] if isinstance(content, list) else []
    rest = [part for part in content or () if not is_kind(part, RESULT_PART)] if results else []
    turns = [message({"role": TOOL, "content": part.get("content"), "tool_call_id": part.get("tool_use_id")}) for part in results]
    return turns if results and not rest else [*turns, message({**value, "content": rest} if results else value)]


def tagged(text: str) -> Turn:
    """Return a text that starts with its role's tag."""
    found = TAGGED.match(clean_text(text))
    if found is None:
        raise Dropped(rows.NOT_MESSAGES)
    return Turn(ROLES[found[1]], text[found.end() :].strip())


def is_transcript(text: str) -> bool:
    """Return whether a text is a dialogue of "Human:" and "Assistant:" paragraphs."""
    return TRANSCRIPT_TURN.match(text) is not None and "\n\nAssistant:" in text


def transcript(text: Any) -> list[Turn]:
    """Return the turns of a "\\n\\nHuman: …\\n\\nAssistant: …" text; white space around a turn is the format's, not the
    turn's.
    """
    text = clean_text(text)
    if not is_transcript(text):
        raise Dropped(rows.NOT_MESSAGES)
    parts = TRANSCRIPT_TURN.split(text)
    return [
        Turn(USER if name == "Human" else ASSISTANT, content.strip())
        for name, content in zip(parts[1::2], parts[2::2], strict=True)
    ]


def read_text(text: str) -> Any:
    """Return the messages that a text holds, as objects; the text itself when it holds none. Raises Dropped."""
    found = read_written(text)
    if isinstance(found, dict):
        found = next((found[key] for key in LIST_KEYS if isinstance(found.get(key), list)), found)
    if isinstance(found, list):
        is_list = any(is_message(item) and knows_role(item) for item in found) or (found and all(map(is_message, found)))
        return found if is_list else text
    return found if is_message(found) and knows_role(found) else text


def knows_role(value: dict[str, Any]) -> bool:
    """Return whether a message's role is one of those known: else it may be an answer in JSON."""
    return any(str(value.get(key)).strip().lower() in ROLES for key in ROLE_KEYS)


def conversation(value: Any) -> list[Turn]:
    """Return a conversation in any form: message list, one message, transcript, or plain text as one user turn."""
    if value is None:
        raise Dropped(rows.MISSING_PROMPT)
    if not isinstance(value, str):
        return message_list(value)
    if is_transcript(value):
        return transcript(value)
    return [Turn(USER, clean_text(value))]


def split_answer(turns: list[Turn]) -> tuple[list[Turn], Turn]:
    """Return a conversation's prompt and the assistant's last turn, the one that is learned."""
    if turns[-1].role != ASSISTANT:
        raise Dropped(rows.NO_ASSISTANT)
    if is_empty(turns[-1]):
        raise Dropped(rows.EMPTY_RESPONSE)
    return turns[:-1], turns[-1]


def check_prompt(turns: list[Turn]) -> list[Turn]:
    """Return a prompt that asks something: at least one message that is not blank and does not come from the system."""
    while turns and turns[-1].role == ASSISTANT and is_empty(turns[-1]):
        turns = turns[:-1]  # the open turn that a template ends with
    if not turns:
        raise Dropped(rows.MISSING_PROMPT)
    if all(is_empty(turn) for turn in turns if turn.role != SYSTEM):
        raise Dropped(rows.EMPTY_PROMPT)
    return turns
