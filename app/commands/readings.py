"""How readings look in a terminal: tokens side by side in the colours of their parts, and how long texts are."""

from typing import Any

from rich.text import Text

from app.commands.terminal import facts, out, plain, table
from app.system.numbers import percent

STYLES = {"prompt": "blue", "opening": "magenta", "answer": "green", "end": "bold red", "read": "cyan"}
WORDS = {
    "prompt": "prompt", "opening": "learned: opening", "answer": "learned: answer", "end": "learned: end of the turn",
    "read": "read by the reward model",
}  # fmt: skip
SEPARATOR = "│"


def show_view(view: dict[str, Any]) -> None:
    """Each part under its name and number of tokens; line breaks as ⏎."""
    for run in view["runs"]:
        cut = (run["part"] == "prompt" and view["prompt_cut"]) or (run["part"] == "answer" and view["answer_cut"])
        out.print(f"{WORDS[run['part']]}: {run['num_tokens']} tokens{', cut' if cut else ''}", markup=False)
        line = join(run["head"], STYLES[run["part"]])
        if hidden := run["num_tokens"] - len(run["head"]) - len(run["tail"]):
            line.append(f" … {hidden} tokens … ", style="dim")
            line.append_text(join(run["tail"], STYLES[run["part"]]))
        out.print(line)


def join(tokens: list[dict[str, Any]], style: str) -> Text:
    line = Text()
    for place, token in enumerate(tokens):
        if place:
            line.append(SEPARATOR, style="dim")
        line.append(plain(token["text"].replace("\n", "⏎")), style=f"{style} reverse" if token["control"] else style)
    return line


def show_reading(reading: dict[str, Any]) -> None:
    """A model's reading of a conversation: its tokens, what ends an answer, what the template does otherwise."""
    if reading["view"]:
        show_view(reading["view"])
    rows = [("format", "the chat template" if reading["format"] == "chat" else "plain turns")]
    if reading["stops"]:
        rows.append(("stops at", describe_stops(reading["stops"])))
    rows += [("refused", reading["refused"])] if reading["refused"] else []
    rows += [("templates", ", ".join(reading["templates"]))] if reading["templates"] else []
    facts([*rows, *(("note", note) for note in reading["notes"])])


def describe_stops(stops: dict[str, Any]) -> str:
    tokens = [f"{token['text']} ({token['id']})" for token in (*stops["tokens"], *stops["listed"])]
    return ", ".join([*tokens, *([repr(stops["text"])] if stops["text"] else [])]) or "nothing: answers go on to their limit"


def show_lengths(measured: dict[str, Any]) -> None:
    """A line for prompts and one for responses, then what is refused or left out."""
    names = ("limit", "median", "p90", "p99", "longest", "suggested")
    texts = [(name, measured[name]) for name in ("prompts", "responses") if measured[name]]
    table(
        "tokens", "over the limit", *names,
        rows=[(name, percent(found["share_cut"], 1), *(found[column] for column in names)) for name, found in texts],
    )  # fmt: skip
    out.print(f"{measured['num_sampled']} of {measured['num_examples']} examples were read.", markup=False)
    for what in ("refused", "omitted"):
        for left in measured[what]:
            lines = ", ".join(map(str, left["lines"]))
            out.print(
                f"{'left out: ' if what == 'omitted' else ''}{plain(left['reason'])}: {left['count']} (rows {lines})",
                markup=False,
            )
    if measured["refused"]:
        out.print(
            "A run leaves out what is refused. To keep it, change these rows, take a model whose chat template writes them, or, "
            "for the policy, plain turns (tokens.prompt_format: plain).",
            markup=False,
        )


def show_example(reading: dict[str, Any]) -> None:
    """Every shown answer as it is learned and, with a reward model, as that reads it."""
    out.print(f"example {reading['example']} of {reading['num_examples']}, row {reading['line']}", markup=False)
    for who, fault in (
        ("The policy can't learn it", reading["refused"]),
        ("The reward model can't read it", reading["reward_refused"]),
    ):
        if fault:
            out.print(f"{who}: {plain(fault)}", markup=False, style="red")
    for answer in reading["answers"]:
        label = {1: ", chosen", -1: ", rejected"}.get(answer["preference"], "")
        out.print(f"\nresponse {answer['response'] + 1} of {reading['num_answers']}{label}", markup=False)
        show_view(answer["learned"])
        if answer["read"]:
            show_view(answer["read"])
    if reading["omitted"]:
        out.print(f"left out: {', '.join(reading['omitted'])}", markup=False)
