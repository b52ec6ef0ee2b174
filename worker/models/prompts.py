"""From messages to tokens: chat templates, plain Human/Assistant turns, and where texts are cut.

A response's ids never depend on its prompt, so one response can be put behind every prompt of a batch, and prompt ids +
response ids are what the model would have seen for the whole text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from app.domain.errors import RecipeInvalid

Turn = tuple[str, str]  # role, content

PLAIN_NAMES = {"user": "Human", "human": "Human", "assistant": "Assistant", "gpt": "Assistant", "system": "System"}
PLAIN_ENDING = "\n\nAssistant:"


class PromptRefused(Exception):
    """The chat template does not take this conversation; the message says why."""


@dataclass(frozen=True)
class PromptFormat:
    """How one tokenizer writes conversations. `chat`: by its chat template, otherwise as plain turns."""

    tokenizer: Any
    chat: bool

    @classmethod
    def choose(cls, tokenizer: Any, wanted: str = "auto") -> "PromptFormat":
        """`wanted` is auto, chat or plain (recipe: tokens.prompt_format); raises RecipeInvalid."""
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if wanted == "chat" and not has_template:
            raise RecipeInvalid.at(
                "tokens.prompt_format",
                "prompt_format is chat, but the policy's tokenizer has no chat template: use auto or plain.",
            )
        return cls(tokenizer, has_template and wanted != "plain")

    def write_prompt(self, turns: Sequence[Turn]) -> str:
        """Return the text up to where the answer begins; raises PromptRefused."""
        if not self.chat:
            return write_plain(turns) + PLAIN_ENDING
        return self._render(turns, add_generation_prompt=True)

    def write_conversation(self, turns: Sequence[Turn], response: str) -> str:
        """Return the whole text with its answer, as a reward model reads it; raises PromptRefused."""
        if not self.chat:
            return write_plain(turns) + PLAIN_ENDING + _spaced(response)
        return self._render([*turns, ("assistant", response)], add_generation_prompt=False)

    def encode_prompts(self, texts: Sequence[str], max_tokens: int) -> list[tuple[list[int], bool]]:
        """Ids of prompts, and whether each lost its start to fit; the beginning-of-text token stays in front."""
        head = self._beginning if not self.chat else []
        ids = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [_keep_end(head + text_ids, max_tokens, len(head)) for text_ids in ids]

    def encode_responses(self, contents: Sequence[str], max_tokens: int) -> list[tuple[list[int], bool]]:
        """Ids of answers ending in the end-of-text token (when there is one), and whether each lost its end to fit."""
        spaced = list(contents) if self.chat else [_spaced(content) for content in contents]
        anchored = self.tokenizer([self._anchor + text for text in spaced], add_special_tokens=False)["input_ids"]
        alone = self.tokenizer(spaced, add_special_tokens=False)["input_ids"]
        size, anchor = len(self._anchor_ids), self._anchor_ids
        end = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        encoded = []
        for whole, single in zip(anchored, alone, strict=True):
            ids = (whole[size:] if whole[:size] == anchor else single) + end
            encoded.append((ids[:max_tokens], len(ids) > max_tokens))
        return encoded

    def decode_response(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip() if not self.chat else text

    @cached_property
    def _anchor(self) -> str:
        """What stands right before every answer; tokenising behind it gives the ids an answer has in place."""
        if not self.chat:
            return ":"
        turns = [("user", "a")]
        whole, without = self._render(turns, add_generation_prompt=True), self._render(turns, add_generation_prompt=False)
        return whole[len(without) :] if whole.startswith(without) else ""

    @cached_property
    def _anchor_ids(self) -> list[int]:
        return self.tokenizer(self._anchor, add_special_tokens=False)["input_ids"] if self._anchor else []

    @cached_property
    def _beginning(self) -> list[int]:
        """[BOS] when the tokenizer itself would put it in front."""
        first = self.tokenizer("a")["input_ids"][:1]
        return first if first and first[0] == self.tokenizer.bos_token_id else []

    def _render(self, turns: Sequence[Turn], *, add_generation_prompt: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
        except MemoryError:
            raise
        except Exception as error:  # a template is a program, which can fail in every way
            raise PromptRefused(f"the chat template refuses it: {error}") from error


def write_plain(turns: Sequence[Turn]) -> str:
    """Turns as `\\n\\nHuman: …\\n\\nAssistant: …`, the form of the public preference sets."""
    return "".join(f"\n\n{PLAIN_NAMES.get(role, role.capitalize())}: {content}" for role, content in turns)


def _spaced(response: str) -> str:
    return response if response[:1].isspace() else " " + response


def _keep_end(ids: list[int], max_tokens: int, num_fixed: int) -> tuple[list[int], bool]:
    if len(ids) <= max_tokens:
        return ids, False
    fixed = ids[:num_fixed]
    return fixed + ids[len(ids) - max_tokens + len(fixed) :], True
