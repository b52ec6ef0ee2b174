"""Chat templates of strangers, tried in a child process: a template is a program, and may run for ever or fill the memory.

`python -m app.ingest.models.chat_template` takes {"templates", "tokens"} on stdin, writes a few conversations with each
template, and prints {"message"}: what is wrong, or "".
A template that refuses a conversation or has a mistake is not judged here.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.system.child import ReplyLost, ask_once, read_jobs
from app.system.installation import module_command
from app.system.limits import limit_memory, limit_processor

CPU_SECONDS = 1  # a usual template takes a thousandth of it
MEMORY_BYTES = 128 * 2**20
MAX_CHARS = 2**20
WAIT_SECONDS = 30.0  # on a machine that is busy with other things
ENDLESS = (
    "The chat template comes to no end within {seconds} s of processor time, or needs more than {mib} MiB of memory, for a "
    "conversation of three messages. Take the model's own template, or remove it to use plain turns."
)
TOO_LONG = "The chat template makes more than {chars:,} characters out of three short messages. Take the model's own template."
SYSTEM, QUESTION, ANSWER, MORE = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Why?"},
)
CONVERSATIONS = (([QUESTION], True), ([QUESTION, ANSWER, MORE], True), ([SYSTEM, QUESTION, ANSWER], False))


def find_fault(templates: Sequence[str], tokens: Mapping[str, str]) -> str:
    """Return what is wrong with these templates, in a sentence; "" when all of them end, soon and with a text of a sane length.

    `tokens`: the special tokens that templates may name, such as bos_token.
    """
    if not templates:
        return ""
    question = {"templates": list(templates), "tokens": dict(tokens)}
    try:
        return str(ask_once(module_command("app.ingest.models.chat_template"), question, WAIT_SECONDS)["message"])
    except ReplyLost:
        return endless()


def endless() -> str:
    return ENDLESS.format(seconds=CPU_SECONDS, mib=MEMORY_BYTES // 2**20)


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's part; here it is only read over."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def try_out(template: str, tokens: Mapping[str, str]) -> str:
    """Return what is wrong with one template; runs it in this process."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = date_of
    try:
        written = environment.from_string(template)
    except MemoryError:
        return endless()
    except Exception:  # a mistake in the template is found where it is used
        return ""
    return next((fault for turns, begins in CONVERSATIONS if (fault := render(written, turns, begins, tokens))), "")


def render(written: Any, turns: Sequence[Mapping[str, str]], begins: bool, tokens: Mapping[str, str]) -> str:
    size = 0
    try:
        for part in written.generate(messages=turns, add_generation_prompt=begins, **tokens):
            size += len(part)
            if size > MAX_CHARS:
                return TOO_LONG.format(chars=MAX_CHARS)
    except MemoryError:
        return endless()
    except Exception:  # it refuses this conversation
        return ""
    return ""


def refuse(message: str) -> None:
    raise TemplateError(message)


def to_json(value: Any, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def date_of(_: str) -> str:
    return "2026-01-31"


def main() -> None:
    """Answer the question on stdin, within limits; past them the kernel ends this process."""
    for line, reply in read_jobs():
        question = json.loads(line)
        limit_memory(MEMORY_BYTES)
        limit_processor(CPU_SECONDS)
        faults = (try_out(template, question["tokens"]) for template in question["templates"])
        reply({"message": next(filter(None, faults), "")})


if __name__ == "__main__":
    main()
