"""One conversation by one chat template, in this process."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from worker.models.rendering.asked import LEAST_CHARS, Asked, Rendered


def write(template: str, variables: Mapping[str, Any], asked: Asked) -> Rendered:
    """Write a conversation as transformers does; `variables`: the special tokens that templates name."""
    try:
        [text], _ = render_jinja_template(
            conversations=[[as_message(turn) for turn in asked.turns]],
            tools=json.loads(asked.tools or "null") or None,
            chat_template=template,
            add_generation_prompt=asked.begins_answer,
            **variables,
        )
    except MemoryError:
        return Rendered("memory")
    except Exception as error:  # a template is a program, which can fail in every way
        return Rendered("refused", str(error)[:LEAST_CHARS])
    return Rendered("text", text) if len(text) <= asked.most_chars else Rendered("length")


def as_message(turn: Sequence[str]) -> dict[str, Any]:
    """Return a turn as templates see it, for which what is null is not there."""
    role, content, fields = turn
    message = {"role": role, "content": content, **(json.loads(fields) if fields else {})}
    return {name: value for name, value in message.items() if value is not None}
