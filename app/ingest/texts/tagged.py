"""Dialogues as text under tags that a user names, like "## Human:", and the tags that a text seems to have."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

LINE_START = r"(?m:^)[ \t]*((?:#{1,6} ?|\*\*)?"
USERS = re.compile(LINE_START + r"(?:human|user|question|instruction|customer|prompter|q) ?:(?:\*\*)?)", re.IGNORECASE)
ASSISTANTS = re.compile(LINE_START + r"(?:assistant|ai|bot|gpt|model|answer|response|agent|a) ?:(?:\*\*)?)", re.IGNORECASE)
MOST_CHARS = 20_000  # looked through for tags


class Tags(NamedTuple):
    """What stands before a turn, by its role; "" for none."""

    user: str
    assistant: str
    system: str = ""


class TaggedTexts:
    """Reads texts under certain tags."""

    def __init__(self, tags: Tags) -> None:
        self._roles = {tag.strip(): role for role, tag in tags._asdict().items() if tag.strip()}
        ordered = sorted(self._roles, key=len, reverse=True)
        self._turn = re.compile(rf"(?:\A|\n)[ \t]*({'|'.join(map(re.escape, ordered))})")

    def read(self, text: str) -> str | list[dict[str, Any]]:
        """Return the turns of a text that begins with a tag, without white space around them; any other text as it is."""
        before, *turns = self._turn.split(text)
        if not turns or before.strip():
            return text
        return [
            {"role": self._roles[tag], "content": content.strip()} for tag, content in zip(turns[::2], turns[1::2], strict=True)
        ]


def find_tags(texts: Iterable[str]) -> Tags | None:
    """Return the tags under which most of the texts are dialogues, beginning with the user; None when there are none."""
    found: Counter[Tags] = Counter()
    num_texts = 0
    for text in texts:
        num_texts += 1
        start = text[:MOST_CHARS].lstrip()
        user = USERS.match(start)
        if user and (assistant := ASSISTANTS.search(start)):
            found[Tags(user[1], assistant[1])] += 1
    tags, times = found.most_common(1)[0] if found else (None, 0)
    return tags if 2 * times > num_texts else None
