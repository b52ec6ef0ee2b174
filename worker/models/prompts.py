"""From messages to tokens: chat templates, plain Human/Assistant turns, and where texts are cut.

prompt ids + response ids = ids of the template's own rendering of the whole conversation, up to and including the end of the
assistant's turn (method.md, 9). Plain turns, and templates that end turns with nothing, get the tokenizer's end-of-text token.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any, NamedTuple

from app.domain.errors import ModelInvalid, RecipeInvalid
from worker.models.literal import LiteralEncoder
from worker.models.template import ChatTemplate, ChatTurn, PromptRefused, Written, split_begun

PLAIN_NAMES = {"user": "Human", "human": "Human", "assistant": "Assistant", "gpt": "Assistant", "system": "System"}
PLAIN_ENDING = "\n\nAssistant:"
TAIL = 16  # ids of a prompt that are decoded with what follows, so that no blank between them is lost
LONGEST_OVERLAP = 8  # ids of a prompt's end that a response's beginning may melt with


class Conversation(NamedTuple):
    """A prompt with one answer; `tools`: JSON list of the tools the prompt describes, or ""."""

    turns: Sequence[ChatTurn]
    answer: ChatTurn
    tools: str = ""


class Prompted(NamedTuple):
    """A prompt with all its answers."""

    turns: tuple[ChatTurn, ...]
    answers: Sequence[ChatTurn]
    tools: str = ""

    def with_answer(self, number: int) -> Conversation:
        return Conversation(self.turns, self.answers[number], self.tools)


class AnswerIds(NamedTuple):
    """What is learned of one answer.

    overlap   how many of the prompt's last ids its first id has melted with: white space at its start, with the header's
    content   its text; of a cut answer, what is left of it
    """

    ids: list[int]
    overlap: int
    is_cut: bool
    content: str


class PromptedIds(NamedTuple):
    """A prompt with its answers, as they are learned.

    turns          what the prompt still has of its messages
    is_continued   the prompt ends within the assistant's turn
    omitted        what the chat template did not write of it
    """

    turns: tuple[ChatTurn, ...]
    prompt_ids: list[int]
    is_cut: bool
    answers: list[AnswerIds]
    is_continued: bool
    omitted: tuple[str, ...]


@dataclass(frozen=True)
class PromptFormat:
    """How one tokenizer writes conversations. `chat`: by its chat template, otherwise as plain turns, with `day` for today."""

    tokenizer: Any
    chat: bool
    day: date = field(default_factory=date.today)

    @classmethod
    def choose(cls, tokenizer: Any, wanted: str = "auto", day: date | None = None) -> "PromptFormat":
        """`wanted` is auto, chat or plain (recipe: tokens.prompt_format); raises RecipeInvalid."""
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if wanted == "chat" and not has_template:
            raise RecipeInvalid.at(
                "tokens.prompt_format",
                "prompt_format is chat, but the policy's tokenizer has no chat template: use auto or plain.",
            )
        return cls(tokenizer, has_template and wanted != "plain", day or date.today())

    def check(self, what: str) -> None:
        """Try the chat template; raises ModelInvalid with what it writes otherwise than can be learned."""
        try:
            if self.chat:
                self.template.frame  # noqa: B018  (found out here)
        except PromptRefused as error:
            raise ModelInvalid(
                f"{what} can't be used with its chat template: {error}. Give the tokenizer another template, "
                "or choose plain turns (tokens.prompt_format: plain)."
            ) from error

    @cached_property
    def template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, self.day)

    @cached_property
    def literal(self) -> LiteralEncoder:
        return LiteralEncoder(self.tokenizer, self._write_control, self.template.source if self.chat else "")

    def _write_control(self) -> str:
        """Return a conversation with every token that opens or closes a turn."""
        try:
            if not self.chat:
                return ""
            ends = "".join(ending.end for ending in self.template.endings)
            return self.template.write_prompt([ChatTurn("user", "")]) + self.template.frame.header + ends
        except PromptRefused:  # good enough for a reward model, which reads finished conversations alone
            return self.template.render([ChatTurn("user", ""), ChatTurn("assistant", "")])

    def write(self, conversation: Conversation) -> Written:
        """Return the conversation's text, users' control tokens hidden; raises PromptRefused and TemplateExceeded."""
        [written] = self.write_all([conversation])
        if isinstance(written, PromptRefused):
            raise written
        return written

    def write_prompt(self, conversation: Conversation) -> str:
        """Return the text up to where the answer begins, users' control tokens hidden; raises as `write` does."""
        if not self.chat or conversation.turns[-1].role == "assistant":  # of whose turn only the whole tells what is written
            return self.write(conversation).prompt
        [(turns, _, tools)] = self._hide_all([conversation])
        return self.template.write_prompt(turns, tools)

    def write_all(self, conversations: Sequence[Conversation]) -> list[Written | PromptRefused]:
        """Return each conversation's text, users' control tokens hidden, or why it is refused; raises TemplateExceeded."""
        hidden = self._hide_all(conversations)
        return self.template.write_all(hidden) if self.chat else [_write_plainly(*conversation) for conversation in hidden]

    def _hide_all(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """Return the conversations with users' control tokens hidden."""
        prompts = {tuple(conversation.turns) for conversation in conversations}  # answers to one prompt share it
        hidden = {turns: tuple(self._hide_turn(turn) for turn in turns) for turns in prompts}
        return [
            Conversation(hidden[tuple(turns)], self._hide_turn(answer), self.literal.hide(tools))
            for turns, answer, tools in conversations
        ]

    def _hide_turn(self, turn: ChatTurn) -> ChatTurn:
        content, fields = (self.literal.hide(text, is_assistant=turn.role == "assistant") for text in turn[1:])
        return ChatTurn(turn.role, content, fields)

    def write_conversations(self, conversations: Sequence[Conversation]) -> list[str | PromptRefused]:
        """Return the whole texts as a reward model reads them, users' control tokens hidden, or why they are refused.

        Raises TemplateExceeded.
        """
        hidden = self._hide_all(conversations)
        if self.chat:
            return self.template.write_wholes(hidden)
        written = [_write_plainly(*conversation) for conversation in hidden]
        return [text if isinstance(text, PromptRefused) else "".join(text) for text in written]

    def encode_conversations(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """Ids of whole conversations as a reward model reads them; raises PromptRefused and TemplateExceeded."""
        texts = []
        for text in self.write_conversations(conversations):
            if isinstance(text, PromptRefused):
                raise text
            texts.append(text)
        rows = self.literal.encode(texts)
        head, tail = ([], []) if self.chat else self._around
        return [[*head, *row, *tail] for row in rows]

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer itself puts in front of a text and behind it."""
        whole, bare = self.tokenizer("a")["input_ids"], self.tokenizer("a", add_special_tokens=False)["input_ids"]
        start = next((k for k in range(len(whole) - len(bare) + 1) if whole[k : k + len(bare)] == bare), 0)
        return whole[:start], whole[start + len(bare) :]

    @cached_property
    def beginning(self) -> list[int]:
        """What stands in front of every prompt: templates write theirs; plain turns get the beginning-of-text token."""
        head = [] if self.chat else self._around[0]
        return head if head == [self.tokenizer.bos_token_id] else []

    @cached_property
    def closing(self) -> list[int]:
        """What is put behind answers whose end the text does not hold."""
        ends = self.chat and self.template.frame.end.strip()
        return [] if ends or self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        if self.closing or not self.chat:
            return frozenset(self.closing)
        written = self.literal.encode([ending.end for ending in self.template.endings])
        return frozenset(ids[-1] for ids in written).intersection(self.tokenizer.get_added_vocab().values())

    @cached_property
    def end_text(self) -> str:
        """What ends an answer that says something, where no single token does; ""."""
        if not self.chat or self.closing:
            return ""
        return "" if self.literal.encode([self.template.frame.end])[0][-1] in self.end_ids else self.template.frame.end.rstrip()

    def is_ended(self, ids: Sequence[int]) -> bool:
        """Return whether the answer ends in the text that ends answers."""
        return bool(self.end_text) and self.tokenizer.decode(list(ids[-4 * len(self.end_text) :])).endswith(self.end_text)

    def decode_response(self, ids: Sequence[int], behind: Sequence[int] = (), begun: str = "") -> str:
        """Return the text of an answer's ids, without its opening and its end.

        `behind`, `begun`: the ids of a prompt that ends within the assistant's turn, and what that turn has said; the answer is
        then what follows it.
        """
        kept = list(ids[:-1] if ids and ids[-1] in self.end_ids else ids)
        tail = list(behind[-TAIL:])
        opening = self.template.frame.opening if self.chat and not behind else ""
        has_marks = any(token in opening for token in self.tokenizer.all_special_tokens)
        text: str = self.tokenizer.decode([*tail, *kept], skip_special_tokens=not has_marks)
        if tail:
            text = text[len(self.tokenizer.decode(tail, skip_special_tokens=True)) :].removeprefix(begun[len(begun.rstrip()) :])
        if self.end_text and text.rstrip().endswith(self.end_text):
            text = text.rstrip().removesuffix(self.end_text)
        if has_marks:  # what was said before, in other openings, is not the answer
            return self._without_marks(text.rpartition(opening)[2] if opening in text else "")
        return text.removeprefix(opening) if self.chat or behind else text.strip()

    def _without_marks(self, text: str) -> str:
        return re.sub("|".join(map(re.escape, self.tokenizer.all_special_tokens)), "", text)


def write_plain(turns: Sequence[ChatTurn]) -> str:
    """Turns as `\\n\\nHuman: …\\n\\nAssistant: …`, the form of the public preference sets."""
    return "".join(f"\n\n{PLAIN_NAMES.get(turn.role, turn.role.capitalize())}: {turn.content}" for turn in turns)


def _write_plainly(turns: Sequence[ChatTurn], answer: ChatTurn, _tools: str) -> Written | PromptRefused:
    try:
        earlier, begun = split_begun(turns)
    except PromptRefused as refused:
        return refused
    prompt = write_plain(earlier) + PLAIN_ENDING + (_spaced(begun.rstrip()) if begun.strip() else "")
    rest = begun[len(begun.rstrip()) :] + answer.content
    return Written(prompt, rest if begun.strip() else _spaced(rest))


def _spaced(response: str) -> str:
    return response if response[:1].isspace() else " " + response
