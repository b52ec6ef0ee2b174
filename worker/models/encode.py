"""Prompts and their answers as ids: how the two are parted, and how what is too long is cut."""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from worker.models.literal import MARK
from worker.models.prompts import AnswerIds, Conversation, Prompted, PromptedIds, PromptFormat
from worker.models.template import ChatTurn, PromptRefused, TemplateExceeded, Written, split_begun

SYSTEM_ROLES = ("system", "developer")
JSON_ROLES = ("tool", "function")  # what they say may be written as JSON, and then with other characters
AT_ONCE = 128  # rows whose texts are held together
LONGEST_OVERLAP = 8  # ids of a prompt's end that the beginning of its answer may melt with


def encode(
    prompt_format: PromptFormat, rows: Sequence[Prompted], max_prompt: int, max_response: int
) -> list[PromptedIds | PromptRefused]:
    """Return each row's ids, or why its prompt is refused. Prompts lose old turns to fit, answers their end.

    Raises TemplateExceeded, with the row's number.
    """
    encoded: list[PromptedIds | PromptRefused] = []
    for start in range(0, len(rows), AT_ONCE):
        encoded += _encode_some(prompt_format, rows[start : start + AT_ONCE], start, max_prompt, max_response)
    return encoded


def _encode_some(
    prompt_format: PromptFormat, rows: Sequence[Prompted], start: int, max_prompt: int, max_response: int
) -> list[PromptedIds | PromptRefused]:
    """Encode rows of which the first has the number `start`."""
    written = _write_all(prompt_format, rows, start)
    found = iter(_tokenise(prompt_format, [w for w in written if not isinstance(w, PromptRefused)]))
    encoded: list[PromptedIds | PromptRefused] = []
    for number, (row, texts) in enumerate(zip(rows, written, strict=True), start):
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
        except TemplateExceeded as exceeded:
            exceeded.number = number
            raise
    return encoded


def _write_all(prompt_format: PromptFormat, rows: Sequence[Prompted], start: int) -> list[list[Written] | PromptRefused]:
    """Return each row's texts, or why one of them is refused."""
    owners = [k for k, row in enumerate(rows, start) for _ in row.answers]
    conversations = [row.with_answer(number) for row in rows for number in range(len(row.answers))]
    try:
        texts = iter(prompt_format.write_all(conversations))
    except TemplateExceeded as exceeded:
        exceeded.number = owners[exceeded.number]
        raise
    return [_all_or_refusal([next(texts) for _ in row.answers]) for row in rows]


def _all_or_refusal(texts: Sequence[Written | PromptRefused]) -> list[Written] | PromptRefused:
    written = []
    for text in texts:
        if isinstance(text, PromptRefused):
            return text
        written.append(text)
    return written


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
    begun = split_begun(row.turns)[1]
    is_continued = bool(begun.strip())
    size = len(prompt_ids)
    if is_continued:  # what answers melt with is this prompt's own, so it is theirs
        size -= max(overlaps)
        overlaps = [0] * len(overlaps)
    answers = []
    for answer, text, whole, overlap in zip(row.answers, texts, wholes, overlaps, strict=True):
        ids = whole[size - overlap :] + prompt_format.closing
        is_cut = len(ids) > max_response
        kept = ids[:max_response]
        num_kept = size - overlap + min(len(kept), len(whole) - size + overlap)
        content = _cut_text(prompt_format, text, whole, num_kept, begun) if is_cut else answer.content
        answers.append(AnswerIds(kept, overlap, is_cut, content))
    return PromptedIds(row.turns, prompt_ids[:size], False, answers, is_continued, find_omitted(prompt_format, row, texts))


def _find_overlap(prompt_ids: Sequence[int], whole: Sequence[int]) -> int:
    """Return how many of the prompt's last ids are not in the whole; raises PromptRefused when that is more than its end."""
    size = len(prompt_ids)
    if whole[:size] == prompt_ids:
        return 0
    overlap = size - next((k for k, (a, b) in enumerate(zip(prompt_ids, whole, strict=False)) if a != b), len(whole))
    if overlap >= min(LONGEST_OVERLAP, size):
        raise PromptRefused(
            f"the last {overlap} tokens of the prompt become others when the answer stands behind it, so no part of them is the "
            "prompt's alone: end the prompt elsewhere, or leave the row out"
        )
    return overlap


def _cut_text(prompt_format: PromptFormat, text: Written, whole: Sequence[int], num_kept: int, begun: str) -> str:
    """Return what is left of an answer's text when `num_kept` ids of the whole stay."""
    head, shown = len(prompt_format.beginning), text.prompt + text.response
    if prompt_format.tokenizer.is_fast and MARK not in shown:
        spans = _find_spans(prompt_format.tokenizer, shown)
        left = shown[len(text.prompt) : max(len(text.prompt), spans[num_kept - head - 1][1])]
    else:
        before = prompt_format.literal.encode([text.prompt])[0]
        decode = prompt_format.tokenizer.decode
        left = decode(list(whole[:num_kept]))[len(decode([*whole[:head], *before])) :].rstrip("\ufffd")
    if begun.strip():
        return left.removeprefix(begun[len(begun.rstrip()) :])
    opening = prompt_format.template.frame.opening if prompt_format.chat else " "
    return "" if opening.startswith(left) else left.removeprefix(opening)


def _encode_cut(prompt_format: PromptFormat, row: Prompted, max_prompt: int, max_response: int) -> PromptedIds:
    fitted = fit_prompt(prompt_format, row, max_prompt)
    texts = [prompt_format.write(fitted.with_answer(number)) for number in range(len(row.answers))]
    [(prompt_ids, wholes)] = _tokenise(prompt_format, [texts])
    return _join(prompt_format, fitted, texts, prompt_ids, wholes, max_response)._replace(is_cut=True)


def fit_prompt(prompt_format: PromptFormat, row: Prompted, max_tokens: int) -> Prompted:
    """Return the row with a prompt of at most `max_tokens` (see fit_turns); raises PromptRefused."""

    def measure(turns: tuple[ChatTurn, ...]) -> int:
        prompt = prompt_format.write_prompt(row.with_answer(0)._replace(turns=turns))
        return len(prompt_format.beginning) + len(prompt_format.literal.encode([prompt])[0])

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

    The beginning of the text, the system turn and the whole header of a first user turn stay; the system turn's text is cut
    last of all, from its end. Raises PromptRefused when nothing is left to drop.
    """
    shorter: tuple[ChatTurn, ...] | None
    choices = [turns]  # with ever fewer old turns
    while (shorter := _drop_oldest(choices[-1])) is not None:
        choices.append(shorter)
    turns = choices[bisect_left(choices, True, key=lambda kept: measure(kept) <= max_tokens, hi=len(choices) - 1)]
    while (excess := measure(turns) - max_tokens) > 0:
        shorter = _drop_text(prompt_format, turns, excess)
        if shorter is None:
            raise PromptRefused(
                f"its prompt takes {max_tokens + excess} tokens without the text that could be cut, and tokens.max_prompt is "
                f"{max_tokens}: raise it"
            )
        turns = shorter
    return turns


def _drop_oldest(turns: tuple[ChatTurn, ...]) -> tuple[ChatTurn, ...] | None:
    """Leave out the first user turn with what answers it, if a later one remains."""
    first = next((k for k, turn in enumerate(turns) if turn.role not in SYSTEM_ROLES), len(turns))
    later = next((k for k in range(first + 1, len(turns)) if turns[k].role == "user"), None)
    return None if later is None else (*turns[:first], *turns[later:])


def _drop_text(prompt_format: PromptFormat, turns: tuple[ChatTurn, ...], excess: int) -> tuple[ChatTurn, ...] | None:
    """Leave out `excess` tokens, or as many as there are, of one turn: the start of a message, or the end of a system turn."""
    by_order = sorted(range(len(turns)), key=lambda k: turns[k].role in SYSTEM_ROLES)
    for k in by_order:
        content = turns[k].content
        spans = _find_spans(prompt_format.tokenizer, content)
        drop = min(excess, len(spans) - 1)
        if drop < 1:
            continue
        if turns[k].role in SYSTEM_ROLES:  # characters of several tokens go whole
            shorter = content[: next((end for _, end in reversed(spans[:-drop]) if end < len(content)), None)]
        else:
            shorter = content[next((start for start, _ in spans[drop:] if start > 0), 0) :]
        if len(shorter) < len(content):
            return _replace_at(turns, k, turns[k]._replace(content=shorter))
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
    omitted = {f"{turn.role} turns" for turn in row.turns if turn.role not in JSON_ROLES and _said(turn).strip() not in prompt}
    first = row.with_answer(0)
    if row.tools and not _changes(prompt_format, first._replace(tools=""), texts[0]):
        omitted.add("tools")
    for k, turn in enumerate(row.turns):
        if "tool_calls" in turn.fields:
            other = first._replace(turns=_replace_at(row.turns, k, _without_field(turn, "tool_calls")))
            if not _changes(prompt_format, other, texts[0]):
                omitted.add("tool calls")
    for answer, text in zip(row.answers, texts, strict=True):
        response = show(text.response)
        other = Conversation(row.turns, _without_field(answer, "tool_calls"), row.tools)
        if "tool_calls" in answer.fields and not _changes(prompt_format, other, text):
            omitted.add("tool calls")
            if not answer.content.strip():
                raise PromptRefused(
                    "an answer is a tool call and nothing else, which the prompt format does not write: leave the row out, or "
                    "take a model whose chat template knows tools"
                )
        thoughts = answer.content.rpartition("</think>")[0].replace("</think>", "<think>").split("<think>")
        if not all(part.strip() in response for part in (*thoughts, str(_carried(answer).get("reasoning_content") or ""))):
            omitted.add("reasoning")
        if _said(answer).strip() not in response:
            omitted.add("text of answers")
    return tuple(sorted(omitted))


def _changes(prompt_format: PromptFormat, other: Conversation, written: Written) -> bool:
    """Return whether the conversation is written as another text than this one."""
    try:
        return prompt_format.write(other) != written
    except PromptRefused:  # the template needs what the other lacks, so it reads it
        return True


def _replace_at(turns: tuple[ChatTurn, ...], k: int, turn: ChatTurn) -> tuple[ChatTurn, ...]:
    return (*turns[:k], turn, *turns[k + 1 :])


def _without_field(turn: ChatTurn, name: str) -> ChatTurn:
    kept = {key: value for key, value in _carried(turn).items() if key != name}
    return turn._replace(fields=json.dumps(kept) if kept else "")


def _said(turn: ChatTurn) -> str:
    """Return a message's text without its thoughts, which templates leave out of earlier turns on purpose."""
    return turn.content.rpartition("</think>")[2]


def _carried(turn: ChatTurn) -> dict[str, Any]:
    """Return what else a message carries."""
    found: dict[str, Any] = json.loads(turn.fields) if turn.fields else {}
    return found
