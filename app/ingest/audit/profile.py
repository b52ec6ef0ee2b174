"""The audit of a data set: what is in it, and what could mislead a training. One pass, memory bounded.

Lengths are in characters (tokens need a tokenizer, which the data does not have yet).
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from app.domain.dataset import CHOSEN, REJECTED, Audit
from app.ingest.audit.repeats import CONTRADICTED, DUPLICATE, NEAR_DUPLICATE, RATINGS
from app.ingest.convert import Converted, RowCount
from app.ingest.examples import Candidate, UnnumberedExample
from app.ingest.messages import ASSISTANT, TOOL, Turn
from app.ingest.rows import Lines
from app.ingest.texts.templated import find_template

MAX_DISTINCT = 1_000_000  # hashes kept to find duplicates: about 60 MB for each of prompts and rows
HISTOGRAM_EDGES = (0, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)

CONTINUED = "the prompt ends with the assistant's turn, which the response continues"
CALLS = "holds tool calls: only chat templates that know them write them"
TOOLS = "describes tools: only chat templates that know them write them"
REASONING = "holds reasoning in a field of its own: only chat templates that know it write it"
NAMES = "names who speaks: only chat templates that know names write them"

TEMPLATED = "already carries a chat template ({}), and the model's own is put around it: switch strip_template on to take it off"

CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\u00ad]")
RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
HTML = re.compile(r"<(?:/?[a-zA-Z][a-zA-Z0-9]*[\s/>]|!--)")


class Distribution:
    """Count, mean, extremes, bins and quantiles of numbers ≥ 0; for the quantiles values over 1024 are kept to 1/64, which no bin
    notices, so memory stays bounded.
    """

    def __init__(self) -> None:
        self.total = 0
        self.low, self.high = math.inf, 0
        self._counts: Counter[int] = Counter()

    def add(self, value: int) -> None:
        """Count one value."""
        self.total += value
        self.low, self.high = min(self.low, value), max(self.high, value)
        self._counts[value if value < 1024 else value >> (shift := value.bit_length() - 7) << shift] += 1

    def summary(self) -> dict[str, Any]:
        """{"count", "mean", "min", "p10", "p50", "p90", "p99", "max", "edges", "histogram"}; the last bin is open."""
        count = sum(self._counts.values())
        if not count:
            return {"count": 0}
        ordered = sorted(self._counts.items())
        facts: dict[str, Any] = {"count": count, "mean": round(self.total / count, 1), "min": self.low}
        facts.update({f"p{p}": quantile(ordered, count, p / 100) for p in (10, 50, 90, 99)})
        facts["max"] = self.high
        bins = [0] * len(HISTOGRAM_EDGES)
        for value, times in ordered:
            bins[sum(value >= edge for edge in HISTOGRAM_EDGES) - 1] += times
        return {**facts, "edges": list(HISTOGRAM_EDGES), "histogram": bins}


def quantile(ordered: list[tuple[int, int]], count: int, share: float) -> int:
    """Return the smallest value with at least this share of all values at or below it."""
    seen = 0
    for value, times in ordered:
        seen += times
        if seen >= share * count:
            return value
    return ordered[-1][0]


class Moments:
    """Count, mean, standard deviation and extremes of any numbers (Welford)."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, value: float) -> None:
        """Count one value."""
        self.count += 1
        delta = value - self.mean
        self.mean += delta / self.count
        self._squares += delta * (value - self.mean)
        self.low, self.high = min(self.low, value), max(self.high, value)

    def summary(self) -> dict[str, Any]:
        """{"count", "mean", "std", "min", "max"}."""
        if not self.count:
            return {"count": 0}
        std = math.sqrt(max(self._squares, 0.0) / self.count)
        facts = {"count": self.count, "mean": self.mean, "std": std, "min": self.low, "max": self.high}
        return {name: value if math.isfinite(value) else None for name, value in facts.items()}


class Distinct:
    """Counts repeated things by their hash, until `MAX_DISTINCT` different ones were seen."""

    def __init__(self) -> None:
        self.repeated = 0
        self.complete = True
        self._seen: set[int] = set()

    def add(self, thing: Any) -> None:
        """Count one thing."""
        key = hash(thing)
        if key in self._seen:
            self.repeated += 1
        elif len(self._seen) < MAX_DISTINCT:
            self._seen.add(key)
        else:
            self.complete = False


class Profile:
    """Takes every example in turn; `audit()` tells what was seen."""

    def __init__(self) -> None:
        self.num_examples = self.num_responses = self.num_pairs = 0
        self.prompt_chars, self.response_chars = Distribution(), Distribution()
        self.chosen_chars, self.rejected_chars = Distribution(), Distribution()
        self.ratings, self.rating_gaps = Moments(), Moments()
        self.prompts = Distinct()
        self.turns: Counter[int] = Counter()
        self.labels: Counter[int | None] = Counter()
        self.responses_per_example: Counter[int] = Counter()
        self.marks: Counter[str] = Counter()
        self.notes = Lines()
        self.rating_values: Counter[float] = Counter()
        self.longer_chosen = self.shorter_chosen = 0

    def add(self, item: Converted, doubts: Iterable[str] = ()) -> None:
        """Count one example, with what it repeats or contradicts."""
        draft = item.draft
        text = " ".join([*(turn.content for turn in draft.prompt), *(answer.content for answer in draft.answers)])
        self.num_examples += 1
        self.num_responses += len(draft.answers)
        self.responses_per_example[len(draft.answers)] += 1
        self.turns[sum(turn.role != "system" for turn in draft.prompt)] += 1
        for note in (*notes_of(draft), *notes_of_text(text), *doubts):
            self.notes.add(item.line, note)
        self.prompts.add(tuple(draft.prompt))
        self.prompt_chars.add(sum(len(turn.content) for turn in draft.prompt))
        self.marks.update(marks_of(text))
        for answer in draft.answers:
            self._add_answer(answer)
        self._add_pair(draft.answers)

    def _add_answer(self, answer: Candidate) -> None:
        self.response_chars.add(len(answer.content))
        self.labels[answer.preference] += 1
        if answer.rating is not None:
            self.ratings.add(answer.rating)
            if len(self.rating_values) < 50 or answer.rating in self.rating_values:
                self.rating_values[answer.rating] += 1

    def _add_pair(self, answers: list[Candidate]) -> None:
        chosen = next((answer for answer in answers if answer.preference == CHOSEN), None)
        rejected = next((answer for answer in answers if answer.preference == REJECTED), None)
        if chosen is None or rejected is None:
            return
        self.num_pairs += 1
        long, short = len(chosen.content), len(rejected.content)
        self.chosen_chars.add(long)
        self.rejected_chars.add(short)
        self.longer_chosen += long > short
        self.shorter_chosen += long < short
        if chosen.rating is not None and rejected.rating is not None:
            self.rating_gaps.add(chosen.rating - rejected.rating)

    def audit(self, tally: RowCount, complete: bool = True) -> Audit:
        """Return the finished audit. `complete`: all that repeats was seen."""
        return Audit(
            num_rows=tally.num_rows,
            num_kept_rows=tally.num_kept_rows,
            num_examples=self.num_examples,
            num_responses=self.num_responses,
            num_pairs=self.num_pairs,
            dropped=tally.dropped(),
            notes=[*self.notes.noted(), *tally.noted()],
            unused=tally.unused.counts() if tally.unused else {},
            has_rating=self.ratings.count > 0,
            has_preference=sum(n for label, n in self.labels.items() if label is not None) > 0,
            facts=self._facts(complete),
        )

    def _facts(self, complete: bool) -> dict[str, Any]:
        share = 1 / max(self.num_examples, 1)
        multi_turn = sum(n for turns, n in self.turns.items() if turns > 1)
        return {
            "prompt_chars": self.prompt_chars.summary(),
            "response_chars": self.response_chars.summary(),
            "share_multi_turn": multi_turn * share,
            "share_non_ascii": self.marks["non_ascii"] * share,
            "num_repeated_prompts": self.prompts.repeated,
            "num_duplicate_examples": self.notes.counts[DUPLICATE],
            "num_near_duplicates": self.notes.counts[NEAR_DUPLICATE],
            "num_contradictory_pairs": self.notes.counts[CONTRADICTED],
            "num_contradicting_ratings": self.notes.counts[RATINGS],
            "duplicates_complete": self.prompts.complete and complete,
            "responses_per_example": {str(k): n for k, n in sorted(self.responses_per_example.items())},
            "labels": {
                "chosen": self.labels[1],
                "neither": self.labels[0],
                "rejected": self.labels[-1],
                "none": self.labels[None],
            },
            "ratings": {**self.ratings.summary(), "values": self._rating_values()},
            "rating_gap": self.rating_gaps.summary(),
            "length_bias": self._length_bias(),
            "num_ties": self.notes.counts["tie"],
            "notes": {note: n for note, n in self.notes.counts.items() if note not in (DUPLICATE, NEAR_DUPLICATE, CONTRADICTED)},
            "characters": {name: n for name, n in self.marks.items() if name != "non_ascii"},
        }

    def _rating_values(self) -> dict[str, int]:
        """Return how often each rating occurs, when there are few different ones."""
        few = len(self.rating_values) < 50
        return {f"{value:g}": n for value, n in sorted(self.rating_values.items())} if few else {}

    def _length_bias(self) -> dict[str, Any]:
        """Mean length of chosen and rejected, and how often the longer response is the chosen one (ties left out)."""
        compared = self.longer_chosen + self.shorter_chosen
        return {
            "chosen_chars": self.chosen_chars.summary(),
            "rejected_chars": self.rejected_chars.summary(),
            "share_longer_chosen": self.longer_chosen / compared if compared else None,
            "num_compared": compared,
        }


def notes_of(draft: UnnumberedExample) -> Iterator[str]:
    """Yield what should be known of an example."""
    yield from draft.notes
    if draft.prompt[-1].role == ASSISTANT:
        yield CONTINUED
    carried = "".join([turn.fields for turn in draft.prompt if turn.fields] + [one.fields for one in draft.answers if one.fields])
    if carried:
        if '"tool_calls":' in carried:
            yield CALLS
        if '"reasoning_content":' in carried:
            yield REASONING
        if '"name":' in carried and any(map(is_named, draft.prompt)):
            yield NAMES
    if draft.tools:
        yield TOOLS


def is_named(turn: Turn) -> bool:
    """Return whether a message names its speaker; a tool's result names its tool, which its call has named before."""
    return turn.role != TOOL and turn.fields is not None and "name" in json.loads(turn.fields)


def notes_of_text(text: str) -> Iterator[str]:
    """Yield what should be known of an example's texts."""
    if template := find_template(text):
        yield TEMPLATED.format(template)


def marks_of(text: str) -> set[str]:
    """Return what kinds of unusual characters an example's texts hold."""
    marks: set[str] = set()
    if not text.isprintable():
        if "\r" in text:
            marks.add("carriage_return")
        if CONTROL.search(text):
            marks.add("control")
    if "<" in text and HTML.search(text):
        marks.add("html_like")
    if not text.isascii():
        marks.add("non_ascii")
        marks.update(name for name, found in rare(text) if found)
    return marks


def rare(text: str) -> list[tuple[str, bool]]:
    """Characters that only non-ASCII texts can hold."""
    return [
        ("replacement", "\ufffd" in text),
        ("invisible", not text.isprintable() and INVISIBLE.search(text) is not None),
        ("right_to_left", RIGHT_TO_LEFT.search(text) is not None),
    ]
