"""What a prompt format does otherwise than most, found out by writing small conversations with it; a sentence for each."""

import json
from collections.abc import Iterator

from worker.models.encode import find_omitted
from worker.models.prompts import Conversation, Prompted, PromptFormat
from worker.models.template import ChatTurn, PromptRefused

LONG_BEGINNING = 50  # characters in front of the user's first words: more than control tokens
USER, ANSWER = ChatTurn("user", "What is 6 · 7?"), ChatTurn("assistant", "Forty-two.")
CALL = ChatTurn("assistant", "", json.dumps({"tool_calls": [
    {"type": "function", "id": "call00001", "function": {"name": "multiply", "arguments": {"a": 6, "b": 7}}},
]}))  # fmt: skip
TOOLS = json.dumps([{"type": "function", "function": {
    "name": "multiply", "description": "Multiplies two numbers.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}}])  # fmt: skip
PROBES = {
    "A system turn": Prompted((ChatTurn("system", "Be brief."), USER), [ANSWER]),
    "A developer's turn": Prompted((ChatTurn("developer", "Be brief."), USER), [ANSWER]),
    "Two user turns in a row": Prompted((USER, ChatTurn("user", "Well?")), [ANSWER]),
    "A prompt that begins the answer": Prompted((USER, ChatTurn("assistant", "Forty")), [ChatTurn("assistant", "-two.")]),
    "Reasoning in an answer": Prompted((USER,), [ANSWER._replace(fields=json.dumps({"reasoning_content": "6 · 7 is 42."}))]),
    "Descriptions of tools": Prompted((USER,), [ANSWER], TOOLS),
    "Tool calls and their results": Prompted(
        (USER, CALL, ChatTurn("tool", "42", json.dumps({"name": "multiply", "tool_call_id": "call00001"}))), [ANSWER], TOOLS
    ),
}
CALLED = Prompted((USER,), [CALL], TOOLS)


def describe(prompt_format: PromptFormat, *, learns: bool = True) -> list[str]:
    """Return what is otherwise, of turns too where answers are learned; raises PromptRefused where nothing can be written."""
    if not prompt_format.chat:
        has = (
            "The tokenizer's chat template is not used" if prompt_format.tokenizer.chat_template else "There is no chat template"
        )
        told = [f"{has}: conversations are written as plain Human/Assistant turns."]
    else:
        told = _describe_text(prompt_format)
    return [*told, *(_describe_turns(prompt_format) if learns else []), *_describe_kinds(prompt_format)]


def _describe_text(prompt_format: PromptFormat) -> list[str]:
    told = []
    before, found, _ = prompt_format.template.write_prompt([USER]).partition(USER.content)
    if found and len(before) > LONG_BEGINNING:
        told.append(f"In front of a conversation without a system turn the chat template writes {_quote(before)}.")
    if _trims(prompt_format):
        told.append("The chat template trims the white space around answers.")
    if prompt_format.template.writes_date:
        told.append(f"The chat template writes the date: a run keeps the day of its launch, here {prompt_format.day:%Y-%m-%d}.")
    return told


def _describe_turns(prompt_format: PromptFormat) -> Iterator[str]:
    """Yield what is unusual in how answers begin and end."""
    tokenizer = prompt_format.tokenizer
    if prompt_format.closing:
        end = tokenizer.convert_ids_to_tokens(prompt_format.closing)[0]
        what = "The chat template ends turns with nothing" if prompt_format.chat else "Plain turns have no end of their own"
        yield f"{what}, so the tokenizer's end-of-text token {end} is put behind every answer."
    if not prompt_format.chat:
        return
    frame = prompt_format.template.frame
    if header := frame.header.strip():
        yield f"The chat template knows no generation prompt, so {_quote(header)} is added to every prompt."
    if frame.opening.strip():
        yield f"Finished turns open with {_quote(frame.opening)}, which is learned in front of every answer."
    usual, *others = prompt_format.template.endings
    end = usual.end.strip()
    if end and not prompt_format.end_text and tokenizer.eos_token not in end:
        yield f"Turns end with {end}, not with the tokenizer's end-of-text token {tokenizer.eos_token}; {end} is learned."
    for call in others:
        yield f"Turns that call tools end with {call.end}, which is learned of them and stopped on as well."
    if prompt_format.end_text:
        yield f"No single token ends a turn, but the text {_quote(prompt_format.end_text)}."
    if rest := frame.after[len(frame.end) :].strip():
        yield f"Behind the end of the turn the template writes {_quote(rest)}, which is not learned."


def _trims(prompt_format: PromptFormat) -> bool:
    spaced = Conversation((USER,), ANSWER._replace(content="\n Forty-two. \n"))
    try:
        return "\n Forty-two. \n" not in "".join(prompt_format.write(spaced))
    except PromptRefused:
        return False


def _describe_kinds(prompt_format: PromptFormat) -> Iterator[str]:
    """Yield which kinds of conversations are refused, and what others lose."""
    missing: set[str] = set()
    for what, row in (PROBES | {"An answer that calls a tool": CALLED}).items():
        if row is CALLED and "tool calls" in missing:
            continue
        try:
            missing |= set(find_omitted(prompt_format, row, [prompt_format.write(row.with_answer(0))]))
        except PromptRefused as refused:
            yield f"{what}: {refused}."
    if missing:
        format_ = "chat template" if prompt_format.chat else "plain form"
        yield f"The {format_} leaves out {', '.join(sorted(missing))}."


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
