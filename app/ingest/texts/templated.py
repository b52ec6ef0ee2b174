"""Texts that already carry a chat template: which one, and the messages without its marks."""

import re
from typing import Any

from app.ingest import rows
from app.ingest.rows import Dropped

Messages = list[dict[str, Any]]

HARMONY, DEEPSEEK = "Harmony", "DeepSeek"
HEADERS = {  # of a turn, with its role; by the template's name
    "Phi-4": re.compile(r"<\|im_start\|>(\w+)<\|im_sep\|>"),
    "ChatML": re.compile(r"<\|im_start\|>[ \t]*(\w+)[ \t]*(?:\n|\Z)"),
    "Llama 3": re.compile(r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>\n{0,2}"),
    "Gemma": re.compile(r"<start_of_turn>[ \t]*(\w+)[ \t]*(?:\n|\Z)"),
    "Llama 4": re.compile(r"<\|header_start\|>\s*(\w+)\s*<\|header_end\|>\n{0,2}"),
    "Command R": re.compile(r"<\|START_OF_TURN_TOKEN\|><\|(USER|CHATBOT|SYSTEM)_TOKEN\|>(?:<\|START_RESPONSE\|>)?"),
    "Granite": re.compile(r"<\|start_of_role\|>(\w+)<\|end_of_role\|>"),
    HARMONY: re.compile(r"<\|start\|>(\w+)(?:(?:<\|channel\|>final)?<\|message\|>|\Z)"),
    "GLM-4": re.compile(r"<\|(user|assistant|system|observation)\|>\n?"),
    "OpenAssistant": re.compile(r"<\|(prompter|assistant|system)\|>"),
    "Phi or Zephyr": re.compile(r"<\|(user|assistant|system|tool)\|>\n?"),
    DEEPSEEK: re.compile(r"<｜(User|Assistant)｜>"),
}
INSTRUCTION = "Llama 2 or Mistral"
MARKS = {  # the first that is found names the template
    "Phi-4": re.compile(r"<\|im_sep\|>"),
    "Llama 4": re.compile(r"<\|(?:header_start|eot)\|>"),
    "ChatML": re.compile(r"<\|im_(?:start|end)\|>"),
    "Llama 3": re.compile(r"<\|(?:start_header_id|eot_id|begin_of_text)\|>"),
    "Gemma": re.compile(r"<(?:start|end)_of_turn>"),
    "Command R": re.compile(r"<\|(?:START|END)_OF_TURN_TOKEN\|>"),
    "Granite": re.compile(r"<\|(?:start|end)_of_role\|>"),
    HARMONY: re.compile(r"<\|(?:start|channel|message|return)\|>"),
    "GLM-4": re.compile(r"\[gMASK\]|<sop>|<\|observation\|>"),
    "OpenAssistant": re.compile(r"<\|prompter\|>"),
    "Phi or Zephyr": re.compile(r"<\|(?:user|assistant|system|end)\|>"),
    DEEPSEEK: re.compile(r"<｜(?:User|Assistant|end▁of▁sentence)｜>"),
    INSTRUCTION: re.compile(r"\[/?INST\]|<</?SYS>>"),
}
HINTS = {"<": ("<|", "_of_turn>", "<｜", "<<SYS>>", "</s>"), "[": ("INST]",)}  # one stands in every text with marks
FINAL = "<|channel|>final<|message|>"  # what an answer begins with whose prompt ends in a header
THOUGHTS = re.compile(r"<\|start\|>\w+<\|channel\|>(?!final<)|\A<\|channel\|>(?!final<)")
START = re.compile(r"\s*(?:<s>|<\|begin_of_text\|>|<bos>|<BOS_TOKEN>|\[gMASK\]\s*<sop>|<｜begin▁of▁sentence｜>)\s*")
END = re.compile(
    r"<\|END_RESPONSE\|>|<\|END_OF_TURN_TOKEN\|>|<\|eot\|>|<\|return\|>|"
    r"<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|end\|>|</s>|<\|endoftext\|>|<\|end_of_text\|>|<eos>|<｜end▁of▁sentence｜>"
)
LONE_END = re.compile(rf"(?:{END.pattern})(?:\s*(?:{END.pattern}))*\s*\Z")
NO_THOUGHT = re.compile(r"\s*<think>\s*</think>\s*")
LONE = "an end token alone"
SYSTEM_PART = re.compile(r"\s*<<SYS>>\n?(.*?)\n?<</SYS>>\s*", re.DOTALL)
INSTRUCTION_START = re.compile(r"(?:\s*<s>)?\s*\[INST\] ?")


def find_template(text: str) -> str:
    """Return the name of the chat template whose marks a text holds; "" when it holds none."""
    if not any(sign in text and any(hint in text for hint in hints) for sign, hints in HINTS.items()):
        return ""
    for name, marks in MARKS.items():
        if marks.search(text):
            return name
    return LONE if LONE_END.search(text) else ""


def strip_template(text: str) -> str | Messages:
    """Return the messages of a text with a template's marks; a text without a turn's header as it is, but for its end token.

    Raises Dropped for text that stands outside of the turns, and for channels of thoughts.
    """
    name = find_template(text)
    if not name:
        return text
    if name == INSTRUCTION:
        return read_instructions(text)
    if name == HARMONY and THOUGHTS.search(text):
        raise Dropped(rows.CHANNELS)
    header = HEADERS.get(name)
    before, *turns = header.split(text) if header else [text]
    if not turns:
        return as_answer(text.removeprefix(FINAL))
    if is_next(before, turns):
        return as_answer(before)
    if len(turns) == 2 and before.strip() and not START.fullmatch(before) and not END.search(text):
        return text  # that only speaks of a mark
    messages = [
        {"role": role.lower(), "content": without_end(content)} for role, content in zip(turns[::2], turns[1::2], strict=True)
    ]
    if NO_THOUGHT.fullmatch(messages[-1]["content"]):  # as the prompts of templates end that open no thought
        messages[-1]["content"] = ""
    if not (outside := without_end(START.sub("", before, count=1)).strip()):
        return messages
    if name != DEEPSEEK or not START.match(before):
        raise Dropped(rows.OUTSIDE_TURNS)
    return [{"role": "system", "content": outside}, *messages]  # which this template writes without a header


def is_next(before: str, turns: list[str]) -> bool:
    """Return whether a text is an answer with the header of the next question behind it and nothing more."""
    is_header = len(turns) == 2 and turns[0].lower() in ("user", "observation", "prompter") and not turns[1].strip()
    return is_header and bool(before.strip()) and not START.fullmatch(before)


def as_answer(text: str) -> str:
    """Return a text without turns, without an end token at its end; one that stands within is spoken of."""
    return LONE_END.sub("", text) if LONE_END.search(text) else text.rstrip("\n")


def without_end(text: str) -> str:
    """Return a turn's text without its end token, and without what a template writes behind that. Raises Dropped."""
    found = END.search(text)
    if found is None:
        return text.rstrip("\n")
    if END.sub("", text[found.end() :]).strip():
        raise Dropped(rows.OUTSIDE_TURNS)
    return text[: found.start()]


def read_instructions(text: str) -> str | Messages:
    """Return the messages between [INST] and [/INST], and after these the assistant's."""
    before, *turns = INSTRUCTION_START.split(text)
    if not turns:
        if "[/INST]" in text:
            raise Dropped(rows.OUTSIDE_TURNS)
        return as_answer(text)
    if before.strip() and "[/INST]" not in text:
        return text  # that only speaks of a mark
    if before.strip():
        raise Dropped(rows.OUTSIDE_TURNS)
    messages: Messages = []
    for turn in turns:
        asked, _, answer = turn.partition("[/INST]")
        if system := SYSTEM_PART.match(asked):
            messages.append({"role": "system", "content": system[1]})
            asked = asked[system.end() :]
        messages.append({"role": "user", "content": asked.strip()})
        if answer.strip():
            messages.append({"role": "assistant", "content": without_end(answer).strip()})
    return messages
