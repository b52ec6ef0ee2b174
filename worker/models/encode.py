"""Prompts and their answers as ids: how the two are parted, and how what is too long is cut."""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from worker.models.prompts import AnswerIds, Conversation, Prompted, PromptedIds, PromptFormat
from worker.models.template import ChatTurn, PromptRefused, Written, split_begun

JSON_ROLES = ("tool", "function")  # what they say may be written as JSON, and then with other characters
LONGEST_OVERLAP = 8  # ids of a prompt's end that the beginning of its answer may melt with


def encode(
    prompt_format: PromptFormat, rows: Sequence[Prompted], max_prompt: int, max_response: int
) -> list[PromptedIds | PromptRefused]:
    """Return each row's ids, or why its prompt is refused. Prompts lose old turns to fit, answers their end."""
    written = [_write(prompt_format, row) for row in rows]
    found = iter(_tokenise(prompt_format, [w for w in written if not isinstance(w, PromptRefused)]))
    encoded: list[PromptedIds | PromptRefused] = []
    for row, texts in zip(rows, written, strict=True):
        if isinstance(texts, PromptRefused):
            encoded.append(texts)
            continue
        prompt_ids, wholes = next(found)
        try:
            if len(prompt_ids) > max_prompt:
                encoded.append(_encode_cut(prompt_format, row, max_prompt, max_response))
            else:
                encoded.append(_join(prompt_format, row, texts, prompt_ids, wholes, max_response))
        except PromptRefused as error:
            encoded.append(error)
    return encoded


def _write(prompt_format: PromptFormat, row: Prompted) -> list[Written] | PromptRefused:
    try:
        return [prompt_format.write(row.with_answer(number)) for number in range(len(row.answers))]
    except PromptRefused as error:
        return error


def _tokenise(prompt_format: PromptFormat, written: Sequence[list[Written]]) -> list[tuple[list[int], list[list[int]]]]:
    """Ids of each prompt, and of it with each of its answers."""
    head, literal = prompt_format.beginning, prompt_format.literal
    prompts = literal.encode([texts[0].prompt for texts in written])
    wholes = iter(literal.encode([text.prompt + text.response for texts in written for text in texts]))
    return [([*head, *prompt], [[*head, *next(wholes)] for _ in texts]) for prompt, texts in zip(prompts, written, strict=True)]


def _join(
    prompt_format: PromptFormat,
    row: Prompted,
    texts: Sequence[Written],
    prompt_ids: list[int],
    wholes: Sequence[list[int]],
    max_response: int,
) -> PromptedIds:
    overlaps = [_find_overlap(prompt_ids, whole) for whole in wholes]
    is_continued = bool(split_begun(row.turns)[1].strip())
    size = len(prompt_ids)
    if is_continued:  # what answers melt with is this prompt's own, so it is theirs
        size -= max(overlaps)
        overlaps = [0] * len(overlaps)
    answers = []
    for answer, whole, overlap in zip(row.answers, wholes, overlaps, strict=True):
        ids = whole[size - overlap :] + prompt_format.closing
        is_cut = len(ids) > max_response
        kept = ids[:max_response]
        content = _cut_text(prompt_format, kept) if is_cut else answer.content
        answers.append(AnswerIds(kept, overlap, is_cut, content))
    return PromptedIds(row.turns, prompt_ids[:size], False, answers, is_continued, find_omitted(prompt_format, row, texts))


def _find_overlap(prompt_ids: Sequence[int], whole: Sequence[int]) -> int:
    """Return how many of the prompt's last ids are not in the whole; raises PromptRefused when that is more than its end."""
    size = len(prompt_ids)
    if whole[:size] == prompt_ids:
        return 0
    overlap = size - next((k for k, (a, b) in enumerate(zip(prompt_ids, whole, strict=False)) if a != b), len(whole))
    if overlap >= min(LONGEST_OVERLAP, size):
        raise PromptRefused("the tokens of the prompt are others when the answer stands behind it")
    return overlap


def _cut_text(prompt_format: PromptFormat, kept: Sequence[int]) -> str:
    """Return the text of what is left of an answer."""
    text = prompt_format.decode_response(kept).rstrip("\ufffd")
    return text if prompt_format.chat else text.strip()


def _encode_cut(prompt_format: PromptFormat, row: Prompted, max_prompt: int, max_response: int) -> PromptedIds:
    fitted = fit_prompt(prompt_format, row, max_prompt)
    texts = [prompt_format.write(fitted.with_answer(number)) for number in range(len(row.answers))]
    [(prompt_ids, wholes)] = _tokenise(prompt_format, [texts])
    return _join(prompt_format, fitted, texts, prompt_ids, wholes, max_response)._replace(is_cut=True)


def fit_prompt(prompt_format: PromptFormat, row: Prompted, max_tokens: int) -> Prompted:
    """Return the row with a prompt of at most `max_tokens` (see fit_turns); raises PromptRefused."""

    def measure(turns: tuple[ChatTurn, ...]) -> int:
        written = prompt_format.write(row.with_answer(0)._replace(turns=turns))
        return len(prompt_format.beginning) + len(prompt_format.literal.encode([written.prompt])[0])

    return row._replace(turns=fit_turns(prompt_format, row.turns, measure, max_tokens))


def encode_whole(
    prompt_format: PromptFormat, conversations: Sequence[Conversation], max_tokens: int | None
) -> tuple[list[list[int]], int]:
    """Return ids of whole conversations, as a reward model reads them, and how many lost the start of their prompt to fit.

    An answer that is too long alone loses its start, but for the first token. Raises PromptRefused.
    """
    rows = prompt_format.encode_conversations(conversations)
    long = [k for k, row in enumerate(rows) if max_tokens is not None and len(row) > max_tokens]
    for k in long:
        assert max_tokens is not None
        row = _fit_conversation(prompt_format, conversations[k], max_tokens)
        rows[k] = row if len(row) <= max_tokens else row[:1] + row[len(row) - max_tokens + 1 :]
    return rows, len(long)


def _fit_conversation(prompt_format: PromptFormat, conversation: Conversation, max_tokens: int) -> list[int]:
    def encode_with(turns: tuple[ChatTurn, ...]) -> list[int]:
        return prompt_format.encode_conversations([conversation._replace(turns=turns)])[0]

    turns = tuple(conversation.turns)
    with suppress(PromptRefused):  # where the answer alone is too long
        turns = fit_turns(prompt_format, turns, lambda shorter: len(encode_with(shorter)), max_tokens)
    return encode_with(turns)


def fit_turns(
    prompt_format: PromptFormat, turns: tuple[ChatTurn, ...], measure: Callable[[tuple[ChatTurn, ...]], int], max_tokens: int
) -> tuple[ChatTurn, ...]:
    """Return turns that `measure` at most `max_tokens`: whole old turns are dropped, then text within a turn.

    The beginning of the text, the system turn and the whole header of a first user turn stay. Raises PromptRefused when
    nothing is left to drop.
    """
    while (excess := measure(turns) - max_tokens) > 0:
        shorter = _drop_oldest(turns) or _drop_text(prompt_format, turns, excess)
        if shorter is None:
            raise PromptRefused(f"what a prompt consists of without its text does not fit into {max_tokens} tokens")
        turns = shorter
    return turns


def _drop_oldest(turns: tuple[ChatTurn, ...]) -> tuple[ChatTurn, ...] | None:
    """Leave out the first user turn with what answers it, if a later one remains."""
    first = next((k for k, turn in enumerate(turns) if turn.role not in ("system", "developer")), len(turns))
    later = next((k for k in range(first + 1, len(turns)) if turns[k].role == "user"), None)
    return None if later is None else (*turns[:first], *turns[later:])


def _drop_text(prompt_format: PromptFormat, turns: tuple[ChatTurn, ...], excess: int) -> tuple[ChatTurn, ...] | None:
    """Leave out `excess` tokens, or as many as there are, of one turn: the start of a message, or the end of a system turn."""
    by_order = sorted(range(len(turns)), key=lambda k: turns[k].role in ("system", "developer"))
    for k in by_order:
        content = turns[k].content
        spans = _find_spans(prompt_format.tokenizer, content)
        drop = min(excess, len(spans) - 1)
        if drop < 1:
            continue
        is_system = turns[k].role in ("system", "developer")
        shorter = content[: spans[-drop - 1][1]] if is_system else content[spans[drop][0] :]
        if len(shorter) < len(content):
            return (*turns[:k], turns[k]._replace(content=shorter), *turns[k + 1 :])
    return None


def _find_spans(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Return where each token begins and ends in the text; of tokenizers that can't tell, words with the blanks before them."""
    if tokenizer.is_fast:
        spans: list[tuple[int, int]] = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return spans
    return [found.span() for found in re.finditer(r"\s*\S{1,4}|\s+$", text)]


def find_omitted(prompt_format: PromptFormat, row: Prompted, texts: Sequence[Written]) -> tuple[str, ...]:
    """Return what the format leaves out of this row, in words to be counted; raises PromptRefused for whole answers."""
    show = prompt_format.literal.show
    prompt = show(texts[0].prompt)
    omitted = {name for turn in row.turns for name in _missing(turn, prompt, is_answer=False)}
    around = _without_contents(prompt, row.turns)
    if not all(name in around for turn in row.turns for name in _call_names(_carried(turn).get("tool_calls"))):
        omitted.add("tool calls")
    if row.tools and not all(name in around for name in _call_names(json.loads(row.tools))):
        omitted.add("tools")
    for answer, text in zip(row.answers, texts, strict=True):
        response = show(text.response)
        missing = _missing(answer, response, is_answer=True)
        if not all(name in _without_contents(response, [answer]) for name in _call_names(_carried(answer).get("tool_calls"))):
            missing.add("tool calls")
        if "tool calls" in missing and not answer.content.strip():
            raise PromptRefused("an answer is a tool call and nothing else, which the prompt format does not write")
        omitted.update(missing)
    return tuple(sorted(omitted))


def _missing(turn: ChatTurn, text: str, *, is_answer: bool) -> set[str]:
    """Return what of a message is not in the text."""
    missing = set()
    thought, _, said = turn.content.rpartition("</think>")
    thoughts = [thought.replace("<think>", ""), str(_carried(turn).get("reasoning_content") or "")]
    if is_answer and not all(part.strip() in text for part in thoughts):  # of earlier turns, templates leave it out on purpose
        missing.add("reasoning")
    if turn.role not in JSON_ROLES and said.strip() not in text:
        missing.add("text of answers" if is_answer else f"{turn.role} turns")
    return missing


def _carried(turn: ChatTurn) -> dict[str, Any]:
    """Return what else a message carries."""
    found: dict[str, Any] = json.loads(turn.fields) if turn.fields else {}
    return found


def _without_contents(text: str, turns: Sequence[ChatTurn]) -> str:
    """Return what of the text is none of the messages' own."""
    for turn in turns:
        text = text.replace(turn.content, " ") if turn.content else text
    return text


def _call_names(calls: Any) -> list[str]:
    """Return the names of the functions that a list of tools or of tool calls holds."""
    found = [call.get("function", call) for call in calls or [] if isinstance(call, dict)]
    return [str(call["name"]) for call in found if isinstance(call, dict) and "name" in call]
