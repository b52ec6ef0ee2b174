"""Ids as they are shown: each token's own text, with what is prompt, opening, answer and end; of many, the middle is left out."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from app.domain.preview.readings import Part, TextToken, TokenRun, TokenView
from worker.models.prompts import AnswerIds, PromptFormat

HEAD, TAIL = 300, 200  # tokens of a run that are shown


class TokenWriter:
    """Writes out one tokenizer's ids."""

    def __init__(self, prompt_format: PromptFormat) -> None:
        self._format, self._tokenizer = prompt_format, prompt_format.tokenizer

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self._tokenizer.get_added_vocab().values()) | frozenset(self._tokenizer.all_special_ids)

    def write(self, ids: Sequence[int], before: Sequence[int] = ()) -> tuple[TextToken, ...]:
        """Return tokens with their texts; `before`: what stands in front, which decides on a space."""
        shown = []
        for place, number in enumerate(ids):
            previous = ids[place - 1 : place] if place else before[-1:]
            shown.append(TextToken(id=number, text=self._text(number, previous), control=number in self._added))
        return tuple(shown)

    def _text(self, number: int, previous: Sequence[int]) -> str:
        if number in self._added:
            return str(self._tokenizer.convert_ids_to_tokens(number))
        alone = self._decode(list(previous))
        text = self._decode([*previous, number]).removeprefix(alone)
        if "\ufffd" not in text and "\ufffd" not in alone:
            return text
        text = self._decode([number])
        return _show_bytes(str(self._tokenizer.convert_ids_to_tokens(number))) if "\ufffd" in text else text

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)) if ids else ""

    def run(self, part: Part, ids: Sequence[int], before: Sequence[int] = ()) -> TokenRun:
        """Return these ids as one part of a view."""
        if len(ids) <= HEAD + TAIL:
            return TokenRun(part=part, num_tokens=len(ids), head=self.write(ids, before))
        tail = self.write(ids[-TAIL:], ids[-TAIL - 1 : -TAIL])
        return TokenRun(part=part, num_tokens=len(ids), head=self.write(ids[:HEAD], before), tail=tail)

    def view(self, prompt_ids: Sequence[int], answer: AnswerIds, *, prompt_cut: bool) -> TokenView:
        """Return a prompt with what is learned of an answer."""
        prompt = list(prompt_ids[: len(prompt_ids) - answer.overlap])
        opening, end = self._count_opening(answer.ids), 0 if answer.is_cut else self._count_end(answer.ids)
        middle = len(answer.ids) - end
        parts: list[tuple[Part, list[int]]] = [
            ("prompt", prompt), ("opening", answer.ids[:opening]), ("answer", answer.ids[opening:middle]),
            ("end", answer.ids[middle:]),
        ]  # fmt: skip
        runs: list[TokenRun] = []
        before: list[int] = []
        for part, ids in parts:
            if ids:
                runs.append(self.run(part, ids, before))
                before = ids
        return TokenView(runs=runs, prompt_cut=prompt_cut, answer_cut=answer.is_cut)

    def _count_opening(self, ids: Sequence[int]) -> int:
        """Return how many of an answer's first ids are what finished turns open with, an empty think block."""
        opening = self._format.template.frame.opening if self._format.chat else ""
        written = self._format.literal.encode([opening])[0] if opening.strip() else []
        return len(written) if written and list(ids[: len(written)]) == written else 0

    def _count_end(self, ids: Sequence[int]) -> int:
        """Return how many of an answer's last ids end the turn."""
        if self._format.closing:
            return len(self._format.closing)
        written = self._format.literal.encode([self._format.template.frame.end])[0] if self._format.chat else []
        if written and list(ids[-len(written) :]) == written:
            return len(written)
        return int(bool(ids) and ids[-1] in self._format.end_ids)


def _show_bytes(token: str) -> str:
    """Return a token that is no whole character by its bytes, where its name spells them as byte-level tokenizers do."""
    table = _byte_names()
    return "".join(f"\\x{table[sign]:02x}" for sign in token) if all(sign in table for sign in token) else token


def _byte_names() -> dict[str, int]:
    """Return which byte each sign of a byte-level vocabulary stands for: printable ones for themselves, others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


def list_eos(generation: Any) -> list[int]:
    """Return the ids that a generation_config.json names as ends."""
    declared = generation.get("eos_token_id") if isinstance(generation, dict) else None
    return [number for number in (declared if isinstance(declared, list) else [declared]) if type(number) is int]
