"""Text to ids, with control tokens in users' text read as text: only what the chat template writes opens and closes turns.

A special token's name within a message is hidden while the template writes the conversation, and shown again when the text
between the template's own control tokens is tokenised, by a copy of the tokenizer that knows none.
"""

import json
import re
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from tokenizers import Tokenizer

MARK = "\ue0b1"  # a private-use character
HIDDEN = MARK + "{}\ue0b2"
ABSENT = "\ue0b3" * 8 + "{}"  # the name, in no text, of a token that is not to be found
SHOWN_AGAIN = re.compile("\ue0b1(\\d+)\ue0b2")
THINKING = ("<think>", "</think>")  # what reasoning is written between: data may bring it


class _Added(NamedTuple):
    """An added token: its id, and whether it takes the white space before or behind it."""

    id: int
    lstrip: bool
    rstrip: bool


class LiteralEncoder:
    """One tokenizer, and the names in users' text that must not become its control tokens."""

    def __init__(self, tokenizer: Any, written: Callable[[], str], named: str = "") -> None:
        """`written`: a conversation by the chat template; added tokens that occur in it are control tokens too.

        `named`: the templates' source; what it names may stand in the assistant's text, as calls do, and in nobody else's.
        """
        self._tokenizer, self._written, self._named = tokenizer, written, named

    @cached_property
    def _marks(self) -> tuple[str, ...]:
        """What opens and closes turns, and the mark itself: hidden from everybody's text."""
        special, written = self._tokenizer.all_special_tokens, self._written()
        found = {*special, *(token for token in self._tokenizer.get_added_vocab() if token in written)}
        return (*sorted(token for token in found if _is_control(token)), MARK)

    @cached_property
    def _control(self) -> tuple[str, ...]:
        """The same, and behind them what only the assistant may write."""
        added = {token for token in self._tokenizer.get_added_vocab() if token in self._named and _is_control(token)}
        return (*self._marks, *sorted(added.difference(self._marks)))

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """What is hidden from the assistant's text, and from everybody else's."""
        return _any_of(self._marks), _any_of(self._control)

    def hide(self, text: str, *, is_assistant: bool = False) -> str:
        """Return the text with the names of control tokens hidden from templates and tokenizers."""
        pattern = self._patterns[0 if is_assistant else 1]
        return pattern.sub(lambda found: HIDDEN.format(self._control.index(found[0])), text)

    def show(self, text: str) -> str:
        """Return the text as it was before `hide`."""
        return SHOWN_AGAIN.sub(lambda hidden: self._control[int(hidden[1])], text) if MARK in text else text

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that templates wrote, nothing added in front or behind."""
        if not texts:
            return []
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        for k, text in enumerate(texts):
            if MARK in text and SHOWN_AGAIN.search(text):
                ids[k] = self._encode_literally(text)
        return ids

    def _encode_literally(self, text: str) -> list[int]:
        """Ids piece by piece: the template's own tokens by their ids, what stands between them without any."""
        ids: list[int] = []
        pieces = self._splitter.split(text)
        for k, piece in enumerate(pieces):
            if k % 2:
                ids.append(self._added[piece].id)
                continue
            if k > 0 and self._added[pieces[k - 1]].rstrip:
                piece = piece.lstrip()
            if k + 1 < len(pieces) and self._added[pieces[k + 1]].lstrip:
                piece = piece.rstrip()
            if piece:
                ids += self._encode_plain(self.show(piece), first=k == 0)
        return ids

    def _encode_plain(self, text: str, *, first: bool) -> list[int]:
        if not self._tokenizer.is_fast:  # written in Python: it can be told to take no token out of the text
            found: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            return found
        plain: list[int] = (self._plain_first if first else self._plain).encode(text, add_special_tokens=False).ids
        return plain

    @cached_property
    def _added(self) -> dict[str, _Added]:
        """The added tokens by their text."""
        found = self._tokenizer.added_tokens_decoder.items()
        return {token.content: _Added(number, token.lstrip, token.rstrip) for number, token in found if token.content}

    @cached_property
    def _splitter(self) -> re.Pattern[str]:
        """The control tokens that only templates write: the longest at each place."""
        return _any_of(self._added.keys() & self._control)

    @cached_property
    def _plain_first(self) -> Tokenizer:
        return _without(self._tokenizer, set(self._control), within=False)

    @cached_property
    def _plain(self) -> Tokenizer:
        return _without(self._tokenizer, set(self._control), within=True)


def _is_control(token: str) -> bool:
    return bool(token.strip()) and token not in THINKING


def _any_of(names: Collection[str]) -> re.Pattern[str]:
    """Return a pattern, with one group, of these names: the longest at each place; of none, it finds nothing."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(names, key=len)[::-1]))})" if names else "((?!))")


def _without(tokenizer: Any, names: set[str], *, within: bool) -> Tokenizer:
    """Return a copy that knows no token of these names; `within`: for text behind other text, which gets no space in front."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    made = {"".join(pair if isinstance(pair, list) else pair.split(" ")) for pair in model.get("merges") or []}
    unknown = model.get("unk_token") or (model["vocab"][model["unk_id"]][0] if model.get("unk_id") is not None else None)
    kept = {name for name in names if name in made or name == unknown}  # words of the model's own
    model["vocab"] = _rename(model["vocab"], names - kept)
    described["added_tokens"] = [
        {**token, "content": ABSENT.format(token["id"])} if token["content"] in names else token
        for token in described["added_tokens"]
        if token["content"] not in kept  # ids are counted on from the vocabulary's, so no other may go
    ]
    described |= {"post_processor": None, "truncation": None, "padding": None}
    if within:
        _never_prepend(described.get("pre_tokenizer"))
    return Tokenizer.from_str(json.dumps(described))


def _rename(vocab: Any, names: set[str]) -> Any:
    """Return the vocabulary with these entries under names that occur in no text: models find whole words in it."""
    if isinstance(vocab, dict):
        return {ABSENT.format(number) if piece in names else piece: number for piece, number in vocab.items()}
    return [[ABSENT.format(k) if piece in names else piece, score] for k, (piece, score) in enumerate(vocab)]


def _never_prepend(described: Any) -> None:
    """Set `prepend_scheme: first` to never, wherever it stands among the pre-tokenizers."""
    if isinstance(described, list):
        for part in described:
            _never_prepend(part)
    elif isinstance(described, dict):
        if described.get("prepend_scheme") == "first":
            described["prepend_scheme"] = "never"
        _never_prepend(list(described.values()))
