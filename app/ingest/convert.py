"""Rows to examples: one converter per shape, and the count of what was left out and why."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from app.domain.dataset import DroppedRows, NotedRows, Shape
from app.ingest import rows
from app.ingest.examples import Cells, Columns, UnnumberedExample
from app.ingest.limits import Limits
from app.ingest.lists import from_candidates, from_ranked, from_tree
from app.ingest.pairs import from_alpaca, from_conversations, from_pair, from_transcripts, from_two
from app.ingest.rated import from_rated, merge
from app.ingest.rows import Dropped, Lines, Row, remedy_of
from app.ingest.texts.fields import read_tools
from app.ingest.unused import UnusedFields

Converter = Callable[[Columns, Cells], UnnumberedExample | list[UnnumberedExample]]
CONVERTERS: dict[Shape, Converter] = {
    Shape.PAIR: from_pair,
    Shape.TRANSCRIPT_PAIR: from_transcripts,
    Shape.CONVERSATION_PAIR: from_conversations,
    Shape.SHAREGPT_PAIR: from_pair,
    Shape.ALPACA_PAIR: from_alpaca,
    Shape.TWO_RESPONSES: from_two,
    Shape.RANKED: from_ranked,
    Shape.CANDIDATES: from_candidates,
    Shape.REPLY_TREE: from_tree,
    Shape.RATED: from_rated,
}
DEVELOPER = "developer messages, read as system messages"


class Converted(NamedTuple):
    """An example with the line it came from (the first one of a group) and what else its row carried."""

    line: int
    draft: UnnumberedExample
    meta: str
    num_rows: int = 1  # it stands for so many; 0 when its row holds other examples too


class RowCount:
    """Rows in = kept + dropped, by reason and with the first line numbers; what kept rows carry and is not used."""

    def __init__(self, columns: Columns | None = None) -> None:
        self.num_rows = 0
        self.num_kept_rows = 0
        self.unused = UnusedFields(columns) if columns else None
        self._reasons = Lines()
        self._left_out = Lines()

    def drop(self, line: int, reason: str) -> None:
        """Count a row that is left out."""
        self._reasons.add(line, reason)

    def keep(self, row: dict[str, Any]) -> None:
        """Count a row that is kept."""
        self.num_kept_rows += 1
        if self.unused is not None:
            self.unused.add(row)

    def leave_out(self, item: Converted, reason: str) -> None:
        """Take an example out again: with its rows, unless other examples of these are kept."""
        self.num_kept_rows -= item.num_rows
        if item.num_rows:
            self._reasons.add(item.line, reason, item.num_rows)
        else:
            self._left_out.add(item.line, f"example left out: {reason}")

    def noted(self) -> list[NotedRows]:
        """Return what is to be known of messages beyond their example."""
        count = self.unused.num_developer if self.unused else 0
        return [*self._left_out.noted(), *([NotedRows(note=DEVELOPER, count=count, lines=[])] if count else [])]

    def dropped(self) -> list[DroppedRows]:
        """Return the reasons, the most frequent first."""
        found = self._reasons.noted()
        return [DroppedRows(reason=one.note, count=one.count, lines=one.lines, remedy=remedy_of(one.note)) for one in found]


def convert_rows(found: Iterator[Row], columns: Columns, tally: RowCount, limits: Limits) -> Iterator[Converted]:
    """Yield the examples of all rows, in their order; rows that can't be used are counted in `tally`."""
    converted = convert_each(found, columns, tally, limits)
    return group(converted, limits.max_responses) if columns.options.get("group_by_prompt") is True else converted


def convert_each(found: Iterator[Row], columns: Columns, tally: RowCount, limits: Limits) -> Iterator[Converted]:
    """Row by row, without grouping."""
    convert = CONVERTERS[columns.shape]
    for row in found:
        tally.num_rows += 1
        try:
            drafts = convert_row(convert, columns, row.value, limits) if not row.fault else []
        except Dropped as dropped:
            tally.drop(row.line, str(dropped))
            continue
        except RecursionError:
            tally.drop(row.line, rows.TOO_DEEP)
            continue
        if row.fault:
            tally.drop(row.line, row.fault)
            continue
        tally.keep(row.value)
        meta = columns.meta(row.value)
        for draft in drafts:
            yield Converted(row.line, draft, meta, int(len(drafts) == 1))


def convert_row(convert: Converter, columns: Columns, row: dict[str, Any], limits: Limits) -> list[UnnumberedExample]:
    """Return a row's examples, with its tools and the number of responses checked. Raises Dropped."""
    cells = columns.read(row)
    result = convert(columns, cells)
    drafts = [result] if isinstance(result, UnnumberedExample) else result
    if any(len(draft.answers) > limits.max_responses for draft in drafts):
        raise Dropped(rows.TOO_MANY_RESPONSES)
    if tools := read_tools(cells.get("tools")):
        return [draft._replace(tools=tools) for draft in drafts]
    return drafts


def group(converted: Iterator[Converted], max_responses: int) -> Iterator[Converted]:
    """Merge neighbours with the same prompt; a group holds at most `max_responses` responses."""
    open_group: list[Converted] = []
    for item in converted:
        if open_group and (item.draft.prompt != open_group[0].draft.prompt or len(open_group) == max_responses):
            yield merged(open_group)
            open_group = []
        open_group.append(item)
    if open_group:
        yield merged(open_group)


def merged(items: list[Converted]) -> Converted:
    """One example for a group."""
    return items[0]._replace(draft=merge([item.draft for item in items]), num_rows=len(items)) if len(items) > 1 else items[0]
