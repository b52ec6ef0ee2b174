"""A reading: texts as the tokens of a model, part by part, as they will be learned or scored; and how long a data set's are.

A worker makes it, with the model's tokenizer alone; the web process has none.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from app.domain.dataset import Frozen, Message
from app.domain.jobs import ModelSource
from app.domain.memory import fit_window

MOST_MESSAGES, MOST_CHARACTERS = 40, 20_000  # of a conversation of the user's own
HELD_SHARE = 0.99  # of the texts are whole at suggested lengths
ROUND_TO = 32

PromptFormatName = Literal["auto", "chat", "plain"]
Part = Literal["prompt", "opening", "answer", "end", "read"]


class ReadingRequest(Frozen):
    """What every reading is of: a policy or a reward model, by their ids, and how it writes conversations.

    `day`: what templates take for today; None: the day it is made.
    """

    model_id: str
    revision: str | None = None
    prompt_format: PromptFormatName = "auto"
    day: date | None = None

    def digest(self, *states: str | None) -> str:
        """Equal requests about files in equal states have equal digests."""
        asked = [self.model_dump(mode="json"), *states]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class ConversationRequest(ReadingRequest):
    """A conversation that ends with the assistant's answer, as one model reads it."""

    kind: Literal["conversation"] = "conversation"
    messages: Annotated[tuple[Message, ...], Field(min_length=2, max_length=MOST_MESSAGES)]

    @model_validator(mode="after")
    def is_a_short_conversation(self) -> "ConversationRequest":
        if self.messages[-1].role != "assistant":
            raise ValueError("a conversation ends with the assistant's answer")
        if sum(len(message.content) for message in self.messages) > MOST_CHARACTERS:
            raise ValueError(f"a conversation to look at has at most {MOST_CHARACTERS:,} characters")
        return self


class ExampleRequest(ReadingRequest):
    """An example of a data set as a run's policy learns it, and as its reward model reads it."""

    kind: Literal["example"] = "example"
    dataset_id: str
    example: int = Field(0, ge=0)
    max_prompt: int = Field(512, ge=1)
    max_response: int = Field(512, ge=1)
    reward_id: str | None = None
    reward_revision: str | None = None


class LengthsRequest(ReadingRequest):
    """How long the texts of a data set are in a model's tokens; `whole`: whole conversations, as a reward model reads them."""

    kind: Literal["lengths"] = "lengths"
    dataset_id: str
    max_examples: int | None = None
    whole: bool = False


AnyRequest = Annotated[ConversationRequest | ExampleRequest | LengthsRequest, Field(discriminator="kind")]


class ReadingJob(Frozen):
    """What the worker's previewing process is asked, with the paths of its machine."""

    request: AnyRequest
    kind: Literal["policy", "reward"]
    model: ModelSource
    reward: ModelSource | None = None
    hub_dir: str
    dataset_path: str = ""


class TextToken(Frozen):
    id: int
    text: str
    control: bool = Field(False, description="Whether it is one of the tokenizer's own tokens and no text.")


class TokenRun(Frozen):
    """Tokens that belong together; of many, the middle is left out."""

    part: Part = Field(description="prompt; of what is learned opening, answer and end; or read, by a reward model.")
    num_tokens: int
    head: tuple[TextToken, ...]
    tail: tuple[TextToken, ...] = ()

    @property
    def num_hidden(self) -> int:
        return self.num_tokens - len(self.head) - len(self.tail)


class TokenView(Frozen):
    """A prompt with one answer, token by token."""

    runs: list[TokenRun]
    prompt_cut: bool = False
    answer_cut: bool = False

    def count(self, *parts: Part) -> int:
        """Return how many tokens these parts have."""
        return sum(run.num_tokens for run in self.runs if run.part in parts)


class Stops(Frozen):
    """What ends an answer that is generated: any of these tokens, or this text where no single token does."""

    tokens: tuple[TextToken, ...]
    text: str = ""
    listed: tuple[TextToken, ...] = Field((), description="What generation_config.json lists besides.")


class ConversationReading(Frozen):
    """How a model reads a conversation. `refused`: why it can't, in a sentence; then there is no view."""

    format: Literal["chat", "plain"]
    view: TokenView | None
    refused: str = ""
    unusable: str = Field("", description="Why no conversation at all can be learned with this chat template.")
    stops: Stops | None = Field(None, description="None for a reward model, which generates nothing.")
    notes: list[str] = Field([], description="What the template does otherwise than most, a sentence each.")
    templates: list[str] = Field([], description="Names of the chat templates, where there are several.")


class AnswerReading(Frozen):
    """One answer of an example: as it is learned and, where there is a reward model, as that reads it."""

    response: int
    preference: int | None
    rating: float | None
    learned: TokenView
    read: TokenView | None = None


class ExampleReading(Frozen):
    """An example as it is learned at the chosen lengths."""

    example: int
    line: int
    num_examples: int
    num_answers: int
    answers: list[AnswerReading]
    max_prompt: int = Field(description="The limits within the policy's context window.")
    max_response: int
    omitted: list[str] = Field([], description="What the chat template leaves out of this example.")
    refused: str = Field("", description="Why the policy can't learn it.")
    reward_refused: str = Field("", description="Why the reward model can't read it.")


class LeftOut(Frozen):
    """Examples that a template refuses, or of which it leaves something out, for one reason; `lines` holds the first ones."""

    reason: str
    count: int
    lines: list[int]


class LengthCounts(Frozen):
    """Numbers of tokens with how often each occurs, in ascending order."""

    counts: list[tuple[int, int]]

    @property
    def total(self) -> int:
        return sum(count for _, count in self.counts)

    def share_over(self, limit: int) -> float:
        """Return the share that is longer."""
        return sum(count for length, count in self.counts if length > limit) / max(1, self.total)

    def quantile(self, share: float) -> int:
        """Return the length that this share of the texts doesn't exceed; 0 when there are none."""
        wanted, seen = math.ceil(share * self.total), 0
        for length, count in self.counts:
            seen += count
            if seen >= wanted:
                return length
        return 0

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "LengthCounts":
        return cls(counts=sorted(Counter(lengths).items()))


class LengthsReading(Frozen):
    """How long prompts and responses are; of whole conversations, `prompts` is empty."""

    num_examples: int
    num_sampled: int
    prompts: LengthCounts
    responses: LengthCounts
    window: int | None = Field(description="The model's context window in tokens, where it has one.")
    refused: tuple[LeftOut, ...] = ()
    omitted: tuple[LeftOut, ...] = ()
    tokenizer_sha256: str

    def fit(self, max_prompt: int, max_response: int) -> tuple[int, int]:
        """Return the limits as the context window allows them."""
        return fit_window(max_prompt, max_response, self.window)

    def suggest(self) -> tuple[int, int]:
        """Return limits that leave 99 of 100 texts whole, in round numbers, as the context window allows."""
        prompt, response = (_round_up(counts) for counts in (self.prompts, self.responses))
        return self.fit(prompt, response)


def _round_up(counts: LengthCounts) -> int:
    held = counts.quantile(HELD_SHARE)
    return max(ROUND_TO, math.ceil(held / ROUND_TO) * ROUND_TO)


AnyReading = ConversationReading | ExampleReading | LengthsReading
READINGS: dict[str, type[ConversationReading] | type[ExampleReading] | type[LengthsReading]] = {
    "conversation": ConversationReading, "example": ExampleReading, "lengths": LengthsReading,
}  # fmt: skip


def parse_reading(request: AnyRequest, answer: Any) -> AnyReading:
    """Return a worker's answer to this request; raises ValidationError."""
    return READINGS[request.kind].model_validate(answer)
