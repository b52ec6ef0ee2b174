"""What a chat template is asked, what it answers, and what it may take of the machine for one conversation."""

from typing import Literal, NamedTuple

CPU_SECONDS = 5  # a usual template takes a thousandth of one
MEMORY_BYTES = 512 * 2**20
LEAST_CHARS, TIMES_ASKED = 2**17, 16  # a template's own words, and how often it may repeat what it is given

Outcome = Literal["text", "refused", "memory", "length", "time", "crash"]


class Asked(NamedTuple):
    """A conversation to write. `turns`: role, content, and JSON of what else a message carries; `tools`: JSON list, or ""."""

    turns: tuple[tuple[str, str, str], ...]
    tools: str = ""
    begins_answer: bool = False

    @property
    def num_chars(self) -> int:
        return len(self.tools) + sum(len(part) for turn in self.turns for part in turn)

    @property
    def most_chars(self) -> int:
        """How long the text may be that a template makes of it."""
        return LEAST_CHARS + TIMES_ASKED * self.num_chars


class Rendered(NamedTuple):
    """What became of it. `text`: what the template wrote, or what it says against the conversation."""

    outcome: Outcome
    text: str = ""
