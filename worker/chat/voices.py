"""Answers in the making: each model draws a token in turn, and what has become text is told ten times a second."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from app.domain.answering.answers import SamplingSettings
from app.domain.answering.chat import Answered, ChatEvent, Spoken, Utterance
from app.domain.errors import InvalidInput
from worker.models.adapter import LanguageModel
from worker.models.encode import encode
from worker.models.generate import Sampling, stream
from worker.models.load import Policy, context_window
from worker.models.prompts import Prompted, PromptFormat
from worker.models.template import ChatTurn, PromptRefused
from worker.stages.evaluation.answers import end_ids

TELL_SECONDS = 0.1
ANY_LENGTH = 2**31
STAND_IN = ChatTurn("assistant", "Yes.")  # behind a prompt whose answer is not there yet
UNFINISHED = "\ufffd"  # what the first bytes of a character become, before the others are there

Tell = Callable[[Sequence[ChatEvent]], None]


@dataclass
class Voice:
    """One model's answer to the conversation."""

    number: int
    prompt_format: PromptFormat
    sampling: Sampling
    is_clipped: bool  # the model's window ends before the longest answer that was asked for
    num_prompt_tokens: int
    tokens: Iterator[int]
    began_at: float
    ids: list[int] = field(default_factory=list)
    told: str = ""
    first_at: float | None = None
    last_at: float = 0.0
    end: Literal["finished", "length", "context", "stopped"] | None = None

    def draw(self) -> None:
        """Draw the next token."""
        token = next(self.tokens, None)
        self.last_at = time.monotonic()
        if token is None:
            self.end = "context" if self.is_clipped else "length"
            return
        self.first_at = self.first_at or self.last_at
        self.ids.append(token)
        if self.sampling.ends(self.ids):
            self.end = "finished"

    def speak(self) -> Spoken | None:
        """Return what has become text since the last time; None where nothing has."""
        text = self.prompt_format.decode_response(self.ids).rstrip(UNFINISHED)
        if text == self.told:
            return None
        goes_on, said = text.startswith(self.told), self.told
        self.told = text
        return Spoken(model=self.number, text=text[len(said) :] if goes_on else text, is_whole=not goes_on)

    def conclude(self) -> Answered:
        """Return the whole answer."""
        assert self.end is not None
        first = None if self.first_at is None else self.first_at - self.began_at
        return Answered(
            model=self.number, text=self.prompt_format.decode_response(self.ids), end=self.end, num_tokens=len(self.ids),
            num_prompt_tokens=self.num_prompt_tokens, first_seconds=first,
            seconds=self.last_at - self.first_at if self.first_at is not None else 0.0,
        )  # fmt: skip


def open_voice(
    number: int, name: str, policy: Policy, messages: Sequence[Utterance], settings: SamplingSettings, began_at: float
) -> Voice:
    """Return an answer that has not begun. Raises InvalidInput for a conversation that the model can't be asked."""
    prompt_format = PromptFormat.choose(policy.tokenizer, settings.prompt_format)
    if not prompt_format.chat and any(message.role == "assistant" for message in messages):
        raise InvalidInput(
            f"“{name}” has no chat template, so it can't go on with a chat of several turns: ask a single prompt, or choose a "
            "model with a template."
        )
    prompt_format.check(f"“{name}”")
    prompt_ids = _encode(prompt_format, name, messages)
    window = context_window(policy.language_model.network.config)
    room = settings.max_new_tokens if window is None else window - len(prompt_ids)
    if room < 1:
        raise InvalidInput(
            f"The conversation has {len(prompt_ids)} tokens, and “{name}” reads {window}, its answer included: shorten it."
        )
    sampling = _to_sampling(policy.language_model, prompt_format, settings, min(room, settings.max_new_tokens))
    tokens = stream(policy.language_model, prompt_ids, sampling)
    return Voice(number, prompt_format, sampling, room < settings.max_new_tokens, len(prompt_ids), tokens, began_at)


def _to_sampling(model: LanguageModel, prompt_format: PromptFormat, settings: SamplingSettings, longest: int) -> Sampling:
    ends = end_ids(model, prompt_format)
    return Sampling(longest, settings.temperature, settings.top_p, settings.seed, ends, prompt_format.is_ended)


def to_turns(messages: Sequence[Utterance]) -> tuple[ChatTurn, ...]:
    return tuple(ChatTurn(message.role, message.content) for message in messages)


def _encode(prompt_format: PromptFormat, name: str, messages: Sequence[Utterance]) -> list[int]:
    [encoded] = encode(prompt_format, [Prompted(to_turns(messages), (STAND_IN,))], ANY_LENGTH, ANY_LENGTH)
    if isinstance(encoded, PromptRefused):
        raise InvalidInput(f"This conversation can't be put to “{name}”: {encoded}.")
    return encoded.prompt_ids


def talk(voices: Sequence[Voice], tell: Tell, is_stopped: Callable[[], bool]) -> None:
    """Let all speak at once, token by token, until the last is over or somebody stops them."""
    open_, tell_at = list(voices), 0.0
    while open_:
        stopped, has_begun = is_stopped(), False
        for voice in open_:
            if stopped:
                voice.end, voice.last_at = "stopped", time.monotonic()
            else:
                has_begun |= not voice.ids
                voice.draw()
        events: list[ChatEvent] = []
        if has_begun or time.monotonic() >= tell_at:
            tell_at = time.monotonic() + TELL_SECONDS
            events += [spoken for voice in open_ if voice.end is None and (spoken := voice.speak()) is not None]
        events += [voice.conclude() for voice in open_ if voice.end is not None]
        open_ = [voice for voice in open_ if voice.end is None]
        if events:
            tell(events)
