"""One file from upload to internal form: read, recognise, convert, write, audit."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from app.domain.dataset import Audit, ColumnMapping, DroppedRows, NotedRows
from app.domain.errors import DatasetInvalid, MappingNeeded
from app.ingest.audit.findings import diagnose_audit
from app.ingest.audit.profile import Profile
from app.ingest.audit.repeats import MAX_DISTINCT, Repeats, key_of
from app.ingest.columns import ROLES_OF_REASONS, check_mapping
from app.ingest.convert import RowCount, convert_rows
from app.ingest.examples import Columns
from app.ingest.limits import Limits
from app.ingest.read import Numbering, Source, open_rows
from app.ingest.refusals import refuse_hopeless
from app.ingest.rows import Row
from app.ingest.shapes import candidate_shapes, detect
from app.ingest.survey import Survey
from app.ingest.write import ExampleWriter
from app.system.files import writing

PREVIEW = "preview.json"
LEARNED = "the last message of each side, by the assistant; all before it is the prompt"


class Ingested(NamedTuple):
    """A data set that is ready: the mapping that was used and its audit."""

    mapping: ColumnMapping
    audit: Audit


def ingest(source: Path, target: Path, mapping: ColumnMapping | None = None, limits: Limits | None = None) -> Ingested:
    """Read `source`, write its examples to `target` (whole or not at all) and tell what is in them.

    Raises MappingNeeded (the shape is unknown: columns and preview in `extra`), DatasetInvalid, TooLarge.
    """
    limits = limits or Limits()
    with open_rows(source, limits) as opened:
        head = take_sample(opened, limits)
        survey = Survey([row.value for row in head if not row.fault])
        if not survey.sample:
            raise nothing_readable(head, opened.numbering)
        write_preview(survey, target.with_name(PREVIEW))
        given, mapping = mapping, settle_mapping(survey, mapping)
        columns = Columns(mapping)
        repeats = Repeats(columns.options, find_contradicted(source, columns, limits))
        tally, profile = RowCount(columns), Profile()
        with ExampleWriter(target, limits) as writer:
            for item in convert_rows(chain(head, opened.rows), columns, tally, limits):
                doubts = repeats.look(item.draft)
                if wrong := repeats.left_out.intersection(doubts):
                    tally.leave_out(item, min(wrong))
                    continue
                profile.add(item, doubts)
                writer.write(item)
            if not profile.num_examples:
                raise nothing_kept(tally, opened.numbering, given)
        audit = profile.audit(tally, repeats.complete)
        audit.numbering = opened.numbering
        audit.notes += [*opened.noted.noted(), *tag_notes(survey, columns)]
        audit.facts.update(format=opened.format, shape=str(mapping.shape), rows_per_example=rows_per_example(mapping))
        audit.facts["learned"] = LEARNED
        audit.findings = diagnose_audit(audit)
        return Ingested(mapping, audit)


def find_contradicted(source: Path, columns: Columns, limits: Limits) -> frozenset[int]:
    """Return the keys of examples that stand in the file in both orders, where such are to be left out: by a reading before."""
    if columns.options.get("leave_out_contradictory_pairs") is not True:
        return frozenset()
    keys: set[int] = set()
    with open_rows(source, limits) as opened:
        for item in convert_rows(opened.rows, columns, RowCount(), limits):
            if len(keys) < MAX_DISTINCT:
                keys.add(key_of(item.draft))
    return frozenset(key & ~1 for key in keys if key ^ 1 in keys)


def take_sample(opened: Source, limits: Limits) -> list[Row]:
    """Return the first rows, at most so many and so large."""
    head: list[Row] = []
    start = opened.counter.bytes_read
    for row in opened.rows:
        head.append(row)
        if len(head) >= limits.sample_rows or opened.counter.bytes_read - start > limits.sample_bytes:
            break
    return head


def tag_notes(survey: Survey, columns: Columns) -> list[NotedRows]:
    """Return the note that prompts look like dialogues under tags, as far as the first rows show it and no tags are named."""
    tags = survey.tags(columns.roots)
    if not tags or columns.options.get("user_tag"):
        return []
    named = " and ".join(f'"{tag}"' for tag in tags.values())
    note = f"texts look like dialogues under {named}: name these as user_tag and assistant_tag to read them as messages"
    return [NotedRows(note=note, count=len(survey.sample), lines=[])]


def settle_mapping(survey: Survey, mapping: ColumnMapping | None) -> ColumnMapping:
    """Return the given mapping if it fits, else the recognised one."""
    if mapping is not None:
        check_mapping(mapping, list(survey.columns), survey.sample)
        return mapping
    found = detect(survey)
    if found is None:
        refuse_hopeless(survey)
        raise mapping_needed(survey)
    return found


def mapping_needed(survey: Survey) -> MappingNeeded:
    """Return the error that the mapping form is made from; `extra` holds what `describe` tells."""
    listed = ", ".join(survey.top())[:300]
    return MappingNeeded(
        f"The columns ({listed}) don't tell for certain which one is the prompt, which are the responses and what says which "
        "is better. Map them.",
        extra=describe(survey),
    )


def describe(survey: Survey) -> dict[str, Any]:
    """Return what the mapping form shows: columns (name, type, example), the first rows as short texts, shapes (likelier ones
    first), and the tags that dialogues seem to have.
    """
    return {
        "columns": survey.describe(),
        "rows": survey.preview(),
        "tags": survey.tags(),
        "shapes": [str(shape) for shape in candidate_shapes(survey)],
    }


def write_preview(survey: Survey, path: Path) -> None:
    """Keep what the mapping form shows, for a later change of the mapping."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(describe(survey)), encoding="utf-8")


def nothing_readable(head: list[Row], numbering: Numbering) -> DatasetInvalid:
    """Return the error for a file without a single readable row at its start."""
    if not head:
        return DatasetInvalid("The file holds no rows, so there is nothing to train on. Upload one that has some.")
    tally = RowCount()
    for row in head:
        tally.num_rows += 1
        tally.drop(row.line, row.fault)
    return nothing_kept(tally, numbering)


def nothing_kept(tally: RowCount, numbering: Numbering, given: ColumnMapping | None = None) -> DatasetInvalid:
    """Return the error for a file none of whose rows can be used, with a problem per reason.

    `given`: the mapping that a user chose; a reason that speaks of one of its parts is then a problem of that part.
    """
    dropped = tally.dropped()
    problems = list(drop_problems(dropped, numbering, given))
    reasons = "; ".join(told(item, numbering) for item in dropped[:5])
    one = tally.num_rows == 1
    opening = "The one row read can't be used" if one else f"None of the {tally.num_rows} rows read can be used"
    return DatasetInvalid(f"{opening}: {reasons}.", problems=problems)


def drop_problems(dropped: list[DroppedRows], numbering: Numbering, given: ColumnMapping | None) -> Iterator[dict[str, Any]]:
    """One problem per reason."""
    for item in dropped:
        message = told(item, numbering)
        where = {"line": item.lines[0]} if numbering == "line" else {}
        yield {"field": field_of(item.reason, given), "message": f"{message[0].upper()}{message[1:]}.", **where}


def told(item: DroppedRows, numbering: Numbering) -> str:
    """Return a reason, how often it was met, and where first."""
    times = f"{item.count} × " if item.count > 1 else ""
    remedy = f": {item.remedy}" if item.remedy else ""
    return f"{times}{item.reason} (first in {numbering} {item.lines[0]}){remedy}"


def field_of(reason: str, given: ColumnMapping | None) -> str:
    """Return the part of the given mapping that a reason speaks of; several may be meant; without one, the file."""
    roles = [
        role for role in ROLES_OF_REASONS.get(reason.partition(' "')[0], ()) if given is not None and given.columns.get(role)
    ]
    if not roles:
        return "file"
    return f"mapping.columns.{roles[0]}" if len(roles) == 1 else "mapping.columns"


def rows_per_example(mapping: ColumnMapping) -> str:
    """Return how rows and examples relate."""
    if mapping.options.get("lists") == "pairs":
        return "a row holds one example for each chosen with each rejected response"
    if mapping.options.get("group_by_prompt") is True:
        return "rows that follow each other and share a prompt are one example"
    return "a row holds one example for every message with ranked replies" if mapping.shape == "reply_tree" else "one"
