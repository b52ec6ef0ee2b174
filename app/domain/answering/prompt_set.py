"""A prompt set: the prompts that models are asked, each known by a hash of its conversation.

Two messages of the user in a row make a question of several turns: the model's own answer stands between them.
"""

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field

from app.domain.dataset import Frozen
from app.domain.errors import InvalidInput
from app.domain.texts import Keepable, Line

MOST_PROMPTS = 10_000
MOST_CHARACTERS = 100_000  # of one prompt
MOST_TEXT = 32 * 2**20  # characters of a list
ID_LENGTH = 16

Part = Literal["validation", "test"]


class PromptMessage(Frozen):
    role: Annotated[str, Field(min_length=1, max_length=20)]
    content: Keepable


class Prompt(Frozen):
    """One line of prompts.jsonl."""

    index: int
    id: str
    messages: tuple[PromptMessage, ...]
    reference: str | None = None  # the answer that is right, or was preferred
    tags: tuple[str, ...] = ()

    @property
    def num_turns(self) -> int:
        """How many answers the model gives: one, and one more for each message of the user that another follows at once."""
        roles = [message.role for message in self.messages]
        return 1 + sum(one == after == "user" for one, after in pairwise(roles))


class PromptSetFacts(Frozen):
    num_several_turns: int  # prompts that the model answers more than once
    num_references: int
    num_characters: int  # of all messages
    num_dropped: int = 0  # prompts that were there twice


class PromptOrigin(Frozen):
    """Where the prompts are from: typed or uploaded text, a data set, or what a run holds out of it."""

    kind: Literal["text", "dataset", "run"]
    filename: str = ""
    dataset_id: str | None = None
    run_id: str | None = None
    part: Part | None = None


class DatasetPrompts(Frozen):
    """All of a ready data set's prompts, or those that a run of it held out; of many, a seeded choice."""

    dataset: Annotated[Line, Field(max_length=80)] | None = Field(
        None, description="A ready data set, all of whose prompts count."
    )
    run: Annotated[Line, Field(max_length=80)] | None = Field(None, description="A run, whose held-out prompts count.")
    part: Part = Field("test", description="Which of the run's held-out prompts: validation, or test, which nothing else read.")
    num_prompts: int = Field(200, ge=1, le=MOST_PROMPTS, description="At most so many, chosen by the seed.")
    seed: int = Field(0, ge=0, lt=2**63, description="Chooses which prompts, where there are more.")


class PromptSetRequest(Frozen):
    """A prompt set to make: from `text`, or from a data set or a run."""

    name: Line = Field("", max_length=120, description="A name for people; empty: made from where the prompts are from.")
    text: str | None = Field(
        None,
        max_length=MOST_TEXT,
        description="One prompt a line; or JSON, or JSON lines: texts, Alpaca's instructions, MT-Bench's questions, messages.",
    )
    source: DatasetPrompts | None = Field(None, description="A data set, or a run's held-out prompts.")


def identify(messages: Sequence[PromptMessage]) -> str:
    """Return the prompt's id: the same for the same conversation, whatever set it stands in."""
    text = json.dumps([[message.role, message.content] for message in messages], ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:ID_LENGTH]


def number(found: Sequence[tuple[Sequence[PromptMessage], str | None, Sequence[str]]]) -> tuple[list[Prompt], int]:
    """Return the prompts with index and id, each conversation once, and how many were there before. Raises InvalidInput."""
    kept: dict[str, Prompt] = {}
    for place, (messages, reference, tags) in enumerate(found, 1):
        refuse_unanswerable(messages, place)
        key = identify(messages)
        if key not in kept:
            kept[key] = Prompt(index=len(kept), id=key, messages=tuple(messages), reference=reference, tags=tuple(tags))
    if not kept:
        raise InvalidInput.at("text", "There is no prompt in it: give one a line, or a list in JSON.")
    if len(kept) > MOST_PROMPTS:
        raise InvalidInput.at(
            "text", f"These are {len(kept)} prompts, and a prompt set has at most {MOST_PROMPTS}: leave some out."
        )
    return list(kept.values()), len(found) - len(kept)


def refuse_unanswerable(messages: Sequence[PromptMessage], place: int) -> None:
    """Raise InvalidInput for a prompt that no model can answer."""
    if not messages or messages[-1].role != "user" or not messages[-1].content.strip():
        raise InvalidInput.at("text", f"Prompt {place} does not end with a message of the user, which the model is to answer.")
    if (size := sum(len(message.content) for message in messages)) > MOST_CHARACTERS:
        raise InvalidInput.at(
            "text", f"Prompt {place} has {size} characters, and at most {MOST_CHARACTERS} are taken: shorten it."
        )


def to_lines(prompts: Sequence[Prompt]) -> bytes:
    """Return the file of a prompt set, the same for the same prompts."""
    rows: list[dict[str, Any]] = [prompt.model_dump(mode="json") for prompt in prompts]
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows).encode()


def count_facts(prompts: Sequence[Prompt], num_dropped: int) -> PromptSetFacts:
    """Return what is told of a prompt set."""
    return PromptSetFacts(
        num_several_turns=sum(prompt.num_turns > 1 for prompt in prompts),
        num_references=sum(prompt.reference is not None for prompt in prompts),
        num_characters=sum(len(message.content) for prompt in prompts for message in prompt.messages),
        num_dropped=num_dropped,
    )


def split_turns(messages: Sequence[PromptMessage]) -> list[list[PromptMessage]]:
    """Return the messages by the answers that they wait for: the model answers at the end of each part."""
    parts: list[list[PromptMessage]] = [[]]
    for message in messages:
        if message.role == "user" and parts[-1] and parts[-1][-1].role == "user":
            parts.append([])
        parts[-1].append(message)
    return parts


def interleave(messages: Sequence[PromptMessage], earlier: Sequence[str]) -> list[PromptMessage]:
    """Return the conversation before the last answer: the prompt's messages with the model's own earlier answers between."""
    turns: list[PromptMessage] = []
    for place, part in enumerate(split_turns(messages)):
        turns += part
        turns += [PromptMessage(role="assistant", content=earlier[place])] if place < len(earlier) else []
    return turns
