"""A row as it comes from a file, and the reasons for which one is left out."""

from collections import Counter
from typing import Any, NamedTuple

from app.domain.dataset import NotedRows

LINES_KEPT = 20  # line numbers remembered per reason
MAX_NAMES = 100
OTHER_REASONS = "other reasons"


class Row(NamedTuple):
    """`line`: from 1, the line (JSON lines, CSV) or the row's number (`Source.numbering`). With a `fault`: it can't be read."""

    line: int
    value: Any
    fault: str = ""


class Lines:
    """How often something was met, by its name, and the first line numbers; a bounded number of names."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.lines: dict[str, list[int]] = {}

    def add(self, line: int, name: str, count: int = 1) -> None:
        """Count one more, or several that begin there, in a line; 0 for none."""
        if len(self.counts) >= MAX_NAMES and name not in self.counts:
            name = OTHER_REASONS
        self.counts[name] += count
        lines = self.lines.setdefault(name, [])
        if line and len(lines) < LINES_KEPT:
            lines.append(line)

    def noted(self) -> list[NotedRows]:
        """Return the names as notes, the most frequent first."""
        return [NotedRows(note=name, count=n, lines=self.lines[name]) for name, n in self.counts.most_common()]


class Dropped(Exception):
    """This row can't be used; the text is the reason, one of those listed here."""


INVALID_JSON = "not valid JSON"
INVALID_UTF8 = "not valid UTF-8"
INVALID_UNICODE = "not valid Unicode (half a surrogate pair)"
INVALID_CSV = "not valid CSV"
NUL = "contains a NUL character"
NAN = "contains NaN or Infinity, which JSON does not have"
NUMBER_RANGE = "contains a number that is too large"
DUPLICATE_KEY = "has the same key twice"
TOO_DEEP = "nested too deeply"
TOO_LONG = "longer than the limit for one row"
TOO_MANY_COLUMNS = "too many columns"
FIELD_COUNT = "has more or fewer fields than the header"
NOT_AN_OBJECT = "not an object with named columns"
MISSING_PROMPT = "no prompt"
MISSING_RESPONSE = "missing response"
MISSING_RATING = "missing or unreadable rating"
MISSING_LABEL = "missing or unknown label"
EMPTY_PROMPT = "empty prompt"
EMPTY_RESPONSE = "empty response"
IDENTICAL = "identical responses"
NOT_TEXT = "a text is not text"
NOT_MESSAGES = "messages can't be read"
NOT_WRITTEN = "messages written as text that is neither JSON nor a Python list"
OUTSIDE_TURNS = "text outside of the turns of its chat template"
CHANNELS = "a chat template's channels of thoughts can't be stripped"
NO_CONTENT = "message without a content"
SEVERAL_MESSAGES = "several messages where one response is expected"
MEDIA = "holds images, video or audio, and this studio trains on text"
OTHER_PART = "message with a content part that is no text, of type"
EMPTY_PART = "message with a content part without a text, with the fields"
BAD_CALL = "a tool call without a function's name"
BAD_TOOLS = "tools are no list of descriptions"
UNKNOWN_ROLE = "message with an unknown role"
PROMPTS_DIFFER = "prompt parts differ"
ANSWERS_DIFFER = "answers differ before the last one, which alone is learned"
NO_ASSISTANT = "no assistant turn at the end"
LENGTHS_DIFFER = "lists of different length"
ONE_RESPONSE = "fewer than two responses"
TOO_MANY_RESPONSES = "too many responses"
UNRANKED = "replies without ranks"


REMEDIES = {  # by reason, without the name that it ends with
    INVALID_UTF8: "save the file as UTF-8",
    INVALID_UNICODE: "write the character whole, or save the file as UTF-8",
    INVALID_JSON: "write each row with json.dumps: double quotes, true, false and null, and no comma after the last value",
    INVALID_CSV: "close each quoted text, and double the quotes within it",
    NUL: "take the character out",
    NAN: "write null, or leave the value out",
    NUMBER_RANGE: "write it as text, or leave it out",
    DUPLICATE_KEY: "give each value a key of its own",
    TOO_DEEP: "keep the prompt, the responses and what rates them",
    TOO_LONG: "shorten its texts, or leave the row out",
    TOO_MANY_COLUMNS: "keep those with prompts, responses and ratings",
    FIELD_COUNT: "put texts with separators or line ends into double quotes",
    NOT_AN_OBJECT: 'write each row as an object, such as {"prompt": …, "chosen": …, "rejected": …}',
    MISSING_PROMPT: "give each row a prompt, or map the column that holds it",
    MISSING_RESPONSE: "give each row its responses, or map the columns that hold them",
    MISSING_RATING: "give each response a number, or leave the row out",
    MISSING_LABEL: "set which values name the first response, the second and a tie",
    EMPTY_PROMPT: "give it a text, or leave the row out",
    EMPTY_RESPONSE: "give it a text, or leave the row out",
    IDENTICAL: "give two responses that differ, or leave the row out",
    NOT_TEXT: "write it as text, or as a list of messages",
    NOT_MESSAGES: "give objects with role and content",
    MEDIA: "leave these rows out, or describe in text what they show",
    OTHER_PART: "write what it says as a part of type text",
    EMPTY_PART: "write what it says under text",
    UNKNOWN_ROLE: "call it user, assistant, system or tool",
    NO_CONTENT: "give it a text, a tool call or reasoning",
    NOT_WRITTEN: "write such lists as JSON, with json.dumps",
    SEVERAL_MESSAGES: "join them, or give whole conversations with two responses",
    OUTSIDE_TURNS: "put it into a turn, or switch strip_template off to keep the marks as text",
    CHANNELS: "keep the final channel only, or give messages with reasoning_content",
    BAD_CALL: "give each call an object with name and arguments",
    BAD_TOOLS: "give a list of objects, or JSON of one",
    PROMPTS_DIFFER: "give both responses the same prompt, or leave the row out",
    ANSWERS_DIFFER: "switch first_difference on to cut such dialogues after the first answer that differs",
    NO_ASSISTANT: "end each side with the assistant's answer",
    LENGTHS_DIFFER: "give as many ratings or ranks as responses",
    ONE_RESPONSE: "give at least two that differ",
    TOO_MANY_RESPONSES: "keep the best and the worst, or spread them over several rows",
    UNRANKED: "give at least two replies a rank",
}


def remedy_of(reason: str) -> str:
    """Return what to do about rows that were left out; "" where the reason says it."""
    return REMEDIES.get(reason.partition(' "')[0], "")


def naming(reason: str, name: Any) -> str:
    """Return a reason with the name that it speaks of, made short and safe to show."""
    shown = "".join(c if c.isprintable() and c != '"' else "·" for c in str(name)[:40])
    return f'{reason} "{shown}"'
