"""What a chat template writes around an answer: found out by writing conversations with it, never assumed (method.md, 9).

A finished conversation is: the prompt, up to where the answer begins; the opening, which finished turns begin with and prompts
don't (an empty think block); the answer; the end of the turn. What a template writes behind the end is nobody's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any, NamedTuple

from app.domain.errors import ModelInvalid
from worker.models.rendering.asked import CPU_SECONDS, LEAST_CHARS, MEMORY_BYTES, TIMES_ASKED, Asked, Outcome
from worker.models.rendering.dates import FUNCTION, hold_date, name_day
from worker.models.rendering.endings import Ending, count_same, find_call_ending, find_end
from worker.models.rendering.renderer import RENDERER

PROBES = ("Qzx0 answers", "Vkw7 replies")  # begin and end unlike one another, so that what stands around them can be told apart
SHOWN = 60  # characters of a difference that a message quotes

EXCEEDED: dict[Outcome, str] = {
    "time": f"takes more than {CPU_SECONDS} s of processor time",
    "memory": f"needs more than {MEMORY_BYTES // 2**20} MiB of memory",
    "length": f"makes more than {TIMES_ASKED} times the text, and {LEAST_CHARS:,} characters besides,",
    "crash": "breaks the process that it runs in",
}


class TemplateExceeded(ModelInvalid):
    """The chat template wants more of the machine for one conversation than it may have.

    `number`: which of the conversations that were to be written; set by those who know.
    """

    number = 0

    def __init__(self, folder: str, outcome: Outcome, begins: str, row: int | None = None) -> None:
        where = "the conversation" if row is None else f"the conversation of row {row}"
        super().__init__(
            f"The chat template{folder and f' in {folder}'} {EXCEEDED[outcome]} to write {where} that begins with "
            f"{_quote(begins)}. Take the model's own template or leave the row out; a policy can also learn plain turns "
            "(tokens.prompt_format: plain)."
        )
        self._told = (folder, outcome, begins)

    def in_row(self, row: int) -> "TemplateExceeded":
        """Return the same of a row of the data set."""
        return TemplateExceeded(*self._told, row=row)


class PromptRefused(Exception):
    """The chat template does not take this conversation, or writes it so that no answer can be learned; the message says why."""


class ChatTurn(NamedTuple):
    """A message. `fields`: JSON object of what else it carries that templates write (tool_calls, reasoning_content …), or ""."""

    role: str
    content: str
    fields: str = ""


Asking = tuple[Sequence[ChatTurn], ChatTurn, str]  # a prompt's turns, an answer, and the tools that the prompt describes


class Written(NamedTuple):
    """One conversation in text: what the answer stands behind, and what is learned, with its opening and its end."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Frame:
    """What stands around every answer.

    header    what turns into the prompt's end where a template knows no generation prompt; "" where it does
    opening   what finished turns write between the prompt and the answer's text
    after     all that follows the answer's text
    end       its part up to and including the end of the turn; white space where the template ends turns with nothing
    """

    header: str
    opening: str
    after: str
    end: str


class ChatTemplate:
    """One tokenizer's chat template, with the date of the run in the place of today's."""

    def __init__(self, tokenizer: Any, day: date) -> None:
        self.tokenizer, self._day = tokenizer, day
        RENDERER.start()

    @cached_property
    def frame(self) -> Frame:
        """What stands around an answer; raises PromptRefused where a prompt is no beginning of its conversation."""
        turns = [ChatTurn("user", "Hello?")]
        asked, left_open = self.render(turns), self.render(turns, begins_answer=True)
        wholes = [self.render([*turns, ChatTurn("assistant", text)]) for text in PROBES]
        arounds = {tuple(whole.split(text, 1)) for whole, text in zip(wholes, PROBES, strict=True)}
        if len(arounds) > 1 or any(len(around) < 2 for around in arounds):
            raise PromptRefused(f"the chat template does not write answers as they are: {_quote(PROBES[0])} became {wholes[0]!r}")
        before, after = arounds.pop()
        header = before[len(asked) :] if left_open == asked and before.startswith(asked) else ""
        begin = _bare(left_open + header)
        if not before.startswith(begin):
            raise PromptRefused(_tell_difference(left_open, before))
        return Frame(header, before[len(begin) :], after, find_end(after, self._find_earlier(turns), self._added))

    @cached_property
    def _added(self) -> frozenset[str]:
        return frozenset(self.tokenizer.get_added_vocab())

    @cached_property
    def endings(self) -> tuple[Ending, ...]:
        """How turns end: those that say something, and those that call tools, where the template ends them otherwise."""
        usual, call = Ending(self.frame.after, self.frame.end), find_call_ending(self._try, self._added)
        return (usual,) if call is None or call.after.endswith(usual.after) else (usual, call)

    def _try(self, turns: Sequence[tuple[str, str, str]], tools: str) -> str:
        """Return what the template writes; "" where it refuses them or wants too much for it."""
        try:
            return self.render([ChatTurn(*turn) for turn in turns], tools)
        except (PromptRefused, TemplateExceeded):
            return ""

    def _find_earlier(self, turns: Sequence[ChatTurn]) -> str:
        """Return what follows an answer that another turn follows; "" where that can't be told."""
        try:
            whole = self.render([*turns, ChatTurn("assistant", PROBES[0]), *turns])
        except PromptRefused:
            return ""
        return whole.partition(PROBES[0])[2]

    def write_prompt(self, turns: Sequence[ChatTurn], tools: str = "") -> str:
        """Return the text up to where the answer begins; raises PromptRefused."""
        return _bare(self.render(turns, tools, begins_answer=True) + self.frame.header)

    def write_all(self, conversations: Sequence[Asking]) -> list[Written | PromptRefused]:
        """Return each prompt and what is learned behind it, or why it is refused; raises TemplateExceeded."""
        parts = [_ask(*conversation) for conversation in conversations]
        texts = self._render_parts(parts)
        return [
            part if isinstance(part, PromptRefused) else self._part(texts[part[0]], texts[part[1]], split_begun(turns)[1])
            for part, (turns, *_) in zip(parts, conversations, strict=True)
        ]

    def write_wholes(self, conversations: Sequence[Asking]) -> list[str | PromptRefused]:
        """Return the whole texts, or why they are refused; raises TemplateExceeded."""
        parts = [part if isinstance(part := _ask(*each), PromptRefused) else part[1:] for each in conversations]
        texts = self._render_parts(parts)
        return [part if isinstance(part, PromptRefused) else texts[part[0]] for part in parts]

    def _render_parts(self, parts: Sequence[tuple[Asked, ...] | PromptRefused]) -> dict[Asked, str | PromptRefused]:
        """Return what is written of each conversation's parts, all in one go; answers to one prompt share it."""
        asked = list(dict.fromkeys(one for part in parts if not isinstance(part, PromptRefused) for one in part))
        try:
            return dict(zip(asked, self.render_all(asked), strict=True))
        except TemplateExceeded as exceeded:
            culprit = asked[exceeded.number]
            exceeded.number = next(k for k, part in enumerate(parts) if not isinstance(part, PromptRefused) and culprit in part)
            raise

    def _part(self, prompt: str | PromptRefused, whole: str | PromptRefused, begun: str) -> Written | PromptRefused:
        """Return what is learned of a whole conversation behind its prompt."""
        if isinstance(prompt, PromptRefused):
            return prompt
        if isinstance(whole, PromptRefused):
            return whole
        try:
            return self._find_response(_bare(prompt + self.frame.header), whole, begun)
        except PromptRefused as refused:
            return refused

    def _find_response(self, prompt: str, whole: str, begun: str) -> Written:
        if not whole.startswith(prompt):
            raise PromptRefused(_tell_difference(prompt, whole))
        response = whole[len(prompt) :]
        after, end = next((each for each in self.endings if response.endswith(each.after)), self.endings[0])
        if not response.endswith(after):
            raise PromptRefused(
                f"the chat template ends this answer with {_quote(response[-len(after) :])}, others with {_quote(after)}, so "
                "generation would not stop behind it: leave the row out, or take a model whose template ends it as all others"
            )
        response = response[: len(response) - len(after) + len(end)]
        return self._continue(prompt, response, begun) if begun.strip() else Written(prompt, response)

    def _continue(self, prompt: str, response: str, begun: str) -> Written:
        """Move the begun part of the answer into the prompt; the space behind it stays with the answer."""
        for text in (begun.rstrip(), begun.strip()):
            for opening in (self.frame.opening, ""):
                if response.startswith(opening + text):
                    size = len(opening + text)
                    return Written(prompt + response[:size], response[size:])
        raise PromptRefused("the prompt ends with a turn of the assistant's, and the chat template does not write it as it is")

    def render(self, turns: Sequence[ChatTurn], tools: str = "", *, begins_answer: bool = False) -> str:
        """Return what the template writes; raises PromptRefused with the template's own sentence, and TemplateExceeded."""
        [text] = self.render_all([Asked(tuple(turns), tools, begins_answer)])
        if isinstance(text, PromptRefused):
            raise text
        return text

    def render_all(self, asked: Sequence[Asked]) -> list[str | PromptRefused]:
        """Return what the template writes of each conversation, or its own sentence against it; raises TemplateExceeded.

        With and without tools the template may be another one.
        """
        texts: list[str | PromptRefused] = [""] * len(asked)
        for has_tools in (False, True):
            chosen = [k for k, one in enumerate(asked) if bool(one.tools) == has_tools]
            try:
                template = self._dated(has_tools) if chosen else ""
            except PromptRefused as refused:
                for k in chosen:
                    texts[k] = refused
                continue
            for k, told in zip(chosen, RENDERER.write(template, self._variables, [asked[k] for k in chosen]), strict=True):
                if told.outcome == "text":
                    texts[k] = told.text
                elif told.outcome == "refused":
                    texts[k] = PromptRefused(f"the chat template refuses it: {told.text}")
                else:
                    raise self._exceed(asked[k], told.outcome, k)
        return texts

    def _exceed(self, asked: Asked, outcome: Outcome, number: int) -> TemplateExceeded:
        exceeded = TemplateExceeded(str(self.tokenizer.name_or_path), outcome, asked.turns[0][1])
        exceeded.number = number
        return exceeded

    @cached_property
    def _variables(self) -> dict[str, Any]:
        """What templates name: special tokens such as bos_token, and the day."""
        found = self.tokenizer.special_tokens_map.items()
        named = {name: [str(one) for one in value] if isinstance(value, list) else str(value) for name, value in found}
        return named | (name_day(self._day) if self.writes_date else {})

    def _dated(self, has_tools: bool) -> str:
        return self._text_with_tools if has_tools else self._text

    @cached_property
    def _text(self) -> str:
        return hold_date(self._choose())

    @cached_property
    def _text_with_tools(self) -> str:
        return hold_date(self._choose(tools=[{}]))

    def _choose(self, **options: Any) -> str:
        """Return the template that transformers takes for this; raises PromptRefused where several have no default."""
        try:
            found: str = self.tokenizer.get_chat_template(**options)
        except ValueError as error:
            raise PromptRefused(f"the chat template refuses it: {error}") from error
        return found

    @property
    def source(self) -> str:
        """The text of all the tokenizer's templates."""
        found = self.tokenizer.chat_template
        return "\n".join(found.values()) if isinstance(found, dict) else str(found)

    @property
    def writes_date(self) -> bool:
        """Whether a template writes the day it runs on."""
        return FUNCTION in self.source


def _ask(turns: Sequence[ChatTurn], answer: ChatTurn, tools: str) -> tuple[Asked, Asked] | PromptRefused:
    """Return what the template is asked to find an answer behind its prompt: the prompt, and the whole."""
    try:
        earlier, begun = split_begun(turns)
    except PromptRefused as refused:
        return refused
    whole = (*earlier, answer._replace(content=begun + answer.content))
    return Asked(tuple(earlier), tools, begins_answer=True), Asked(whole, tools)


def split_begun(turns: Sequence[ChatTurn]) -> tuple[Sequence[ChatTurn], str]:
    """Return the turns before the answer, and what the prompt has already written of it: the assistant's turn it ends with."""
    if turns[-1].role != "assistant":
        return turns, ""
    if turns[-1].fields or len(turns) == 1:
        raise PromptRefused("the prompt ends with a turn of the assistant's that can't be continued as text")
    return turns[:-1], turns[-1].content


def _bare(text: str) -> str:
    """Return a prompt without the blanks at its end, which belong to the first word behind them."""
    return text.rstrip(" ")


def _quote(text: str) -> str:
    return json.dumps(text if len(text) <= SHOWN else f"{text[:SHOWN]}…", ensure_ascii=False)


def _tell_difference(prompt: str, whole: str) -> str:
    same = count_same(prompt, whole)
    return (
        "the chat template's prompt is no beginning of the finished conversation: "
        f"after {_quote(prompt[max(0, same - 20) : same])} the prompt goes on "
        f"with {_quote(prompt[same:])}, the conversation with {_quote(whole[same:])}"
    )
