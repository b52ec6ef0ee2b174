"""Texts, numbers and message lists out of the many ways in which people write them down."""

import math
import re
from decimal import Decimal
from typing import Any, NamedTuple

from app.domain.texts import is_keepable
from app.ingest import rows
from app.ingest.rows import Dropped

LABEL_CHARS = 200  # longer texts are no labels


class Turn(NamedTuple):
    """One message."""

    role: str
    content: str
    fields: str | None = None


USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
ROLES = {
    "user": USER, "human": USER, "prompter": USER, "question": USER, "<|prompter|>": USER, "<|user|>": USER,
    "assistant": ASSISTANT, "gpt": ASSISTANT, "chatgpt": ASSISTANT, "bot": ASSISTANT, "model": ASSISTANT, "ai": ASSISTANT,
    "<|assistant|>": ASSISTANT, "system": SYSTEM, "<|system|>": SYSTEM, "tool": "tool", "function": "tool", "observation": "tool",
}  # fmt: skip
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value", "text")
TRANSCRIPT_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
TAGGED = re.compile(r"\A(<\|(?:prompter|user|assistant|system)\|>)")


def clean_text(value: Any) -> str:
    """Return the text itself, if it can be kept and shown. Raises Dropped."""
    if not isinstance(value, str):
        raise Dropped(rows.NOT_TEXT)
    if "\0" in value:
        raise Dropped(rows.NUL)
    if not value.isascii():
        check_unicode(value)
    return value


def check_unicode(text: str) -> None:
    """Raise Dropped for lone surrogates: those of the JSON itself, or bytes that were not UTF-8 (U+DC80 … U+DCFF)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        smuggled = 0xDC80 <= ord(text[error.start]) <= 0xDCFF
        raise Dropped(rows.INVALID_UTF8 if smuggled else rows.INVALID_UNICODE) from error


def is_label(text: str) -> bool:
    """Return whether a text is short and can be kept."""
    return len(text) <= LABEL_CHARS and is_keepable(text)


def response_text(value: Any) -> str:
    """Return a response's text; empty ones are dropped."""
    if value is None:
        raise Dropped(rows.MISSING_RESPONSE)
    if isinstance(value, dict):
        value = message(value).content
    elif isinstance(value, list):
        turns = message_list(value)
        if len(turns) != 1:
            raise Dropped(rows.NOT_MESSAGES)
        value = turns[0].content
    text = clean_text(value)
    if not text.strip():
        raise Dropped(rows.EMPTY_RESPONSE)
    return text


def number(value: Any) -> float | None:
    """Return a finite number, also written as text; None for anything else, booleans included."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def is_message(value: Any) -> bool:
    """Return whether a value is an object with a role and a content."""
    return isinstance(value, dict) and any(key in value for key in ROLE_KEYS) and any(key in value for key in CONTENT_KEYS)


def message(value: Any) -> Turn:
    """Return a message written as {role, content}, {from, value} or {role, text}."""
    if not is_message(value):
        raise Dropped(rows.NOT_MESSAGES)
    name = next(value[key] for key in ROLE_KEYS if key in value)
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise Dropped(rows.UNKNOWN_ROLE)
    content = next(value[key] for key in CONTENT_KEYS if key in value)
    if isinstance(content, list):  # content parts, as in {"type": "text", "text": …}
        if not all(isinstance(part, dict) and part.get("type", "text") == "text" for part in content):
            raise Dropped(rows.NOT_TEXT)
        content = "".join(clean_text(part.get("text")) for part in content)
    return Turn(role, clean_text(content))


def message_list(value: Any) -> list[Turn]:
    """Return a conversation: a list of messages, or of texts tagged <|prompter|> and <|assistant|>."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise Dropped(rows.NOT_MESSAGES)
    return [tagged(item) if isinstance(item, str) else message(item) for item in value]


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


def conversation(value: Any) -> list[Turn]:
    """Return a conversation in any form: message list, one message, transcript, or plain text as one user turn."""
    if value is None:
        raise Dropped(rows.MISSING_PROMPT)
    if not isinstance(value, str):
        return message_list(value)
    if is_transcript(value):
        return transcript(value)
    return [Turn(USER, clean_text(value))]


def split_answer(turns: list[Turn]) -> tuple[list[Turn], str]:
    """Return a conversation's prompt and the assistant's last turn."""
    if turns[-1].role != ASSISTANT:
        raise Dropped(rows.NO_ASSISTANT)
    return turns[:-1], turns[-1].content


def check_prompt(turns: list[Turn]) -> list[Turn]:
    """Return a prompt that asks something: at least one message that is not blank and does not come from the system."""
    while turns and turns[-1].role == ASSISTANT and not turns[-1].content.strip():
        turns = turns[:-1]  # the open turn that a template ends with
    if not turns:
        raise Dropped(rows.MISSING_PROMPT)
    if not any(turn.content.strip() for turn in turns if turn.role != SYSTEM):
        raise Dropped(rows.EMPTY_PROMPT)
    return turns
