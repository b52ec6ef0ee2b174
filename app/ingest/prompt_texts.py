"""Lists of prompts and of outputs as people have them: lines, Alpaca's instructions, MT-Bench's questions, chat messages.

Each becomes messages, the answer that is right where one is given, and tags. Nothing is guessed of an entry without a prompt.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from app.domain.answering.prompt_set import PromptMessage
from app.domain.errors import InvalidInput
from app.domain.texts import is_keepable

PROMPT_KEYS = ("prompt", "question", "instruction", "text")
REFERENCE_KEYS = ("reference", "answer", "output", "chosen")
TAG_KEYS = ("category", "dataset", "task")
MOST_TAG = 60
FOUND = "Found: a string, or an object with prompt, question, instruction, messages or turns."


class GivenPrompt(NamedTuple):
    messages: tuple[PromptMessage, ...]
    reference: str | None
    tags: tuple[str, ...]


class GivenOutput(NamedTuple):
    """An answer of a model that is not here; `prompt` is what it is matched by."""

    prompt: str
    text: str
    model: str


def read_prompts(text: str) -> list[GivenPrompt]:
    """Return the prompts of a text. Raises InvalidInput with the entry at fault."""
    return [_read_prompt(entry, place) for place, entry in _entries(text)]


def read_outputs(text: str) -> list[GivenOutput]:
    """Return the outputs of a list in AlpacaEval's shape: instruction, output, generator. Raises InvalidInput."""
    found = []
    for place, entry in _entries(text):
        output = entry.get("output", entry.get("response")) if isinstance(entry, dict) else None
        if not isinstance(output, str) or not is_keepable(output):
            raise InvalidInput.at("file", f"Entry {place} has no output: each is an object with instruction and output.")
        given = _read_prompt({key: value for key, value in entry.items() if key not in REFERENCE_KEYS}, place)
        found.append(GivenOutput(key_of(given.messages), output, str(entry.get("generator") or "")))
    if not found:
        raise InvalidInput.at("file", "There is no output in it: give a list of objects with instruction and output.")
    return found


def key_of(messages: tuple[PromptMessage, ...]) -> str:
    """Return what prompts are matched by: their texts, but for white space."""
    return "\n".join(" ".join(message.content.split()) for message in messages if message.role != "system")


def _entries(text: str) -> Iterator[tuple[int, Any]]:
    """Yield the entries with their places, from 1: of a list in JSON, of JSON lines, or plain lines."""
    begins = text.lstrip("\ufeff \t\r\n")[:1]
    if begins == "[":
        yield from enumerate(_decode(text.lstrip("\ufeff"), 0, list), 1)
        return
    for line, row in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        if row.strip():
            yield line, _decode(row, line, dict) if begins == "{" else row.strip()


def _decode(text: str, line: int, wanted: type) -> Any:
    where = f"Line {line}" if line else "The text"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput.at("text", f"{where} begins like JSON, but can't be read as such: {error}.") from None
    if not isinstance(found, wanted):
        raise InvalidInput.at("text", f"{where} is no {'list' if wanted is list else 'object'} in JSON.")
    return found


def _read_prompt(entry: Any, place: int) -> GivenPrompt:
    if isinstance(entry, str):
        return GivenPrompt((_user(entry, place),), None, ())
    if not isinstance(entry, dict):
        raise InvalidInput.at("text", f"Entry {place} is no prompt. {FOUND}")
    messages, reference = _find_messages(entry, place)
    if isinstance(system := entry.get("system"), str) and system.strip():
        messages = (PromptMessage(role="system", content=_keep(system, place)), *messages)
    tags = tuple(str(entry[key])[:MOST_TAG] for key in TAG_KEYS if isinstance(entry.get(key), str) and is_keepable(entry[key]))
    return GivenPrompt(messages, reference if reference is not None else _find_reference(entry, place), tags)


def _find_messages(entry: Mapping[str, Any], place: int) -> tuple[tuple[PromptMessage, ...], str | None]:
    """Return the messages, and the answer that a list of messages ends in."""
    if isinstance(turns := entry.get("turns"), list) and turns:
        return tuple(_user(turn, place) for turn in turns), None
    listed = entry.get("messages", entry.get("prompt"))
    if isinstance(listed, list) and listed:
        messages = tuple(_message(message, place) for message in listed)
        if messages[-1].role == "assistant":
            return messages[:-1], messages[-1].content
        return messages, None
    given = next((entry[key] for key in PROMPT_KEYS if isinstance(entry.get(key), str)), None)
    if given is None:
        raise InvalidInput.at("text", f"Entry {place} has no prompt. {FOUND}")
    extra = entry.get("input")
    whole = f"{given}\n\n{extra}" if isinstance(extra, str) and extra.strip() and "instruction" in entry else given
    return (_user(whole, place),), None


def _message(message: Any, place: int) -> PromptMessage:
    role = message.get("role", message.get("from")) if isinstance(message, dict) else None
    content = message.get("content", message.get("value")) if isinstance(message, dict) else None
    names = {"human": "user", "gpt": "assistant"}
    if not isinstance(role, str) or not isinstance(content, str) or not 0 < len(role) <= 20:
        raise InvalidInput.at("text", f"Entry {place} has a message without role and content.")
    return PromptMessage(role=names.get(role, role), content=_keep(content, place))


def _user(content: Any, place: int) -> PromptMessage:
    if not isinstance(content, str):
        raise InvalidInput.at("text", f"Entry {place} has a turn that is no text.")
    return PromptMessage(role="user", content=_keep(content, place))


def _find_reference(entry: Mapping[str, Any], place: int) -> str | None:
    for key in REFERENCE_KEYS:
        found = entry.get(key)
        if isinstance(found, list) and found:
            found = found[-1]
        if isinstance(found, str) and found.strip():
            return _keep(found, place)
    return None


def _keep(text: str, place: int) -> str:
    if not is_keepable(text):
        raise InvalidInput.at("text", f"Entry {place} holds characters that can't be kept (NUL, or half a surrogate pair).")
    return text
