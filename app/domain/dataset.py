"""Preference data: the one internal form, the shapes a file can come in, and how its columns are mapped.

Internal form: Parquet, one row per example (a prompt with its responses), columns:
    example_id  int64     dense, from 0, in the file's order
    line        int64     1-based line (JSON lines, CSV) or row number of the source (the audit's `numbering`)
    prompt      list<struct<role: string, content: string, fields: string?>>
    responses   list<struct<content: string, rating: double?, preference: int8?, fields: string?>>
    tools       string?   JSON list of the tool descriptions that the row carries, null when none
    meta        string    JSON object of whatever else the row carried and is worth showing
`preference`: 1 chosen, -1 rejected, 0 tie or in between, null unknown. The chosen response of a pair stands first.
`fields`: JSON object of what else a message carried that chat templates may write: tool_calls (arguments
as an object), tool_call_id, name, reasoning_content; null when none. Files of before `fields` and `tools` read as having none.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.domain.problems import at_most
from app.domain.texts import Keepable

CHOSEN, NEITHER, REJECTED = 1, 0, -1


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


MessageFields = Annotated[
    dict[str, Any], Field(description="What else the message carries: tool_calls, tool_call_id, name, reasoning_content.")
]


class Message(Frozen):
    role: str
    content: str
    fields: MessageFields = {}


class Response(Frozen):
    content: str
    rating: float | None = None
    preference: int | None = None
    fields: MessageFields = {}


class Example(Frozen):
    example_id: int
    line: int = Field(description="From 1: line of the file, or row, as the audit's `numbering` says.")
    prompt: tuple[Message, ...]
    responses: tuple[Response, ...]
    tools: list[Any] = Field([], description="The descriptions of the tools that the messages may call.")
    meta: dict[str, Any] = {}


class DatasetOrigin(Frozen):
    """What a data set was made from in the studio: judged answers, or what was preferred in a comparison."""

    answers: str | None = None
    comparison: str | None = None
    judge: str = Field(description="The key of the judge whose scores count, or votes.")


class DatasetState(StrEnum):
    PROCESSING = "processing"
    NEEDS_MAPPING = "needs_mapping"
    READY = "ready"
    FAILED = "failed"


class Shape(StrEnum):
    """How the responses of a row are laid out in the file."""

    PAIR = "pair"  # prompt, chosen, rejected (text or messages)
    TRANSCRIPT_PAIR = "transcript_pair"  # chosen, rejected: whole Human/Assistant transcripts, prompt implicit
    CONVERSATION_PAIR = "conversation_pair"  # chosen, rejected: message lists that repeat the prompt
    SHAREGPT_PAIR = "sharegpt_pair"  # conversations (from/value), chosen, rejected
    ALPACA_PAIR = "alpaca_pair"  # instruction, input, chosen, rejected
    TWO_RESPONSES = "two_responses"  # two responses and a label or annotators' votes
    RANKED = "ranked"  # a list of responses with ranks or scores
    CANDIDATES = "candidates"  # prefix/suffix/reward lists
    REPLY_TREE = "reply_tree"  # nested replies with ranks
    RATED = "rated"  # one response with a rating or a boolean


MOST_PARTS = 40
FEW = at_most(MOST_PARTS)
ColumnName = Annotated[Keepable, Field(min_length=1, max_length=500)]
PartName = Annotated[str, Field(min_length=1, max_length=60)]
OptionValue = bool | Annotated[float, Field(allow_inf_nan=False)] | Annotated[Keepable, Field(max_length=500)]


class ColumnMapping(Frozen):
    """Which column plays which part. `columns` maps a role of the shape (see SHAPE_ROLES in app.ingest.columns) to a column's
    name (dotted for nested fields) or, for `votes`, to several. `options` holds the shape's few switches."""

    shape: Shape
    columns: Annotated[
        dict[PartName, ColumnName | Annotated[list[ColumnName], Field(max_length=100)]], Field(max_length=MOST_PARTS), FEW
    ] = {}
    options: Annotated[dict[PartName, OptionValue], Field(max_length=MOST_PARTS), FEW] = {}


SIDES = (("chosen", "rejected"), ("rating_chosen", "rating_rejected"))
LABELS = {"first": "1", "second": "2"}  # what label values mean unless the mapping says so


def swap_sides(mapping: ColumnMapping) -> ColumnMapping | None:
    """Return the mapping that prefers the other response of each pair; None for a shape without two sides, or without labels."""
    columns, options = dict(mapping.columns), dict(mapping.options)
    if "chosen" in columns:
        for one, other in SIDES:
            found = {one: columns.pop(other, None), other: columns.pop(one, None)}
            columns.update({role: column for role, column in found.items() if column is not None})
    elif mapping.shape is Shape.TWO_RESPONSES and ("label" in columns or "votes" in columns):
        options |= {"first": options.get("second", LABELS["second"]), "second": options.get("first", LABELS["first"])}
    else:
        return None
    return mapping.model_copy(update={"columns": columns, "options": options})


class DroppedRows(Frozen):
    """Rows that were left out for one reason; `lines` holds the first of their numbers, of lines or rows (see `numbering`)."""

    reason: str
    count: int
    lines: list[int]
    remedy: str = ""


class NotedRows(Frozen):
    """Kept rows of which something should be known; `lines` as in `DroppedRows`."""

    note: str
    count: int
    lines: list[int]


class AuditFinding(Frozen):
    """Something about a data set to look at before a training: what was counted, and what to do."""

    name: str
    title: str
    evidence: str
    remedy: str


class Audit(BaseModel):
    """What is in a data set: num_rows = num_examples + sum of dropped counts, except for shapes whose rows hold several
    examples or are grouped (then `rows_per_example` says how)."""

    num_rows: int
    num_kept_rows: int
    numbering: Literal["line", "row"] = Field(
        "line",
        description="What rows are numbered by: the file's lines (JSON lines, CSV), or one by one (JSON, Parquet).",
    )
    num_examples: int
    num_responses: int
    num_pairs: int
    dropped: list[DroppedRows] = []
    notes: list[NotedRows] = []
    findings: list[AuditFinding] = []
    unused: dict[str, int] = Field(
        {},
        description="What kept rows carry and training does not use: columns, fields of them (`meta.source`) and of their "
        "messages (`chosen[].weight`), with the number of rows or messages that hold one.",
    )
    has_rating: bool = False
    has_preference: bool = False
    facts: dict[str, Any] = {}
