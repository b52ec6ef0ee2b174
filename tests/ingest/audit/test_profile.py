"""The audit's numbers, checked by hand on a few rows."""

import random

from app.domain.dataset import ColumnMapping
from app.ingest.audit.profile import Distribution, Moments
from app.ingest.convert import convert_each
from app.ingest.examples import Columns
from app.ingest.limits import Limits

MAPPING = ColumnMapping(shape="pair", columns={"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"})


def test_an_audit_counts_what_could_mislead(read_rows):
    rows = [
        {"prompt": "Hi", "chosen": "long answer", "rejected": "short"},
        {"prompt": "Hi", "chosen": "long answer", "rejected": "short"},
        {"prompt": "Hi", "chosen": "a", "rejected": "<b>bold</b>"},
        {"prompt": "é", "chosen": "x\r\ny", "rejected": "\u200bש\ufffd\x07"},
    ]
    audit = read_rows(*rows).audit
    facts = audit.facts
    assert (audit.num_rows, audit.num_examples, audit.num_responses, audit.num_pairs) == (4, 4, 8, 4)
    assert (facts["num_repeated_prompts"], facts["num_duplicate_examples"]) == (2, 1)
    assert facts["share_non_ascii"] == 0.25
    assert facts["share_multi_turn"] == 0
    assert facts["characters"] == {
        "html_like": 1,
        "carriage_return": 1,
        "invisible": 1,
        "right_to_left": 1,
        "replacement": 1,
        "control": 1,
    }
    assert facts["labels"] == {"chosen": 4, "neither": 0, "rejected": 4, "none": 0}
    bias = facts["length_bias"]
    assert (bias["num_compared"], bias["share_longer_chosen"]) == (3, 2 / 3)  # the last pair is of equal length
    assert bias["chosen_chars"]["mean"] == round((11 + 11 + 1 + 4) / 4, 1)
    assert facts["prompt_chars"]["p50"] == 2
    assert (facts["format"], facts["shape"], facts["rows_per_example"]) == ("jsonl", "pair", "one")


def test_ratings_are_described(read_rows):
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
    audit = read_rows({**row, "score_chosen": 3, "score_rejected": 1}, {**row, "score_chosen": 2, "score_rejected": 2}).audit
    assert audit.facts["ratings"] == {
        "count": 4, "mean": 2.0, "std": 0.5**0.5, "min": 1.0, "max": 3.0, "values": {"1": 1, "2": 2, "3": 1},
    }  # fmt: skip
    assert audit.facts["rating_gap"]["mean"] == 1.0


def test_multi_turn_prompts_are_counted(read_rows):
    turns = [{"role": role, "content": "x"} for role in ("system", "user", "assistant", "user")]
    answers = {"chosen": "a", "rejected": "b"}
    audit = read_rows({"conversations": turns, **answers}, {"conversations": turns[:2], **answers}).audit
    assert audit.facts["share_multi_turn"] == 0.5


def test_quantiles_stay_within_a_64th_and_memory_bounded():
    values = [random.Random(0).randint(0, 10**6) for _ in range(1)] + [random.Random(n).randint(0, 10**6) for n in range(5000)]
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    summary = distribution.summary()
    exact = sorted(values)[len(values) // 2]
    assert abs(summary["p50"] - exact) <= exact / 64 + 1
    assert sum(summary["histogram"]) == len(values)
    assert len(distribution._counts) < 2000


def test_extremes_and_bins_are_exact():
    distribution = Distribution()
    values = [1025, 2047, 2048, 4095, 65535, 65537]
    for value in values:
        distribution.add(value)
    summary = distribution.summary()
    assert (summary["min"], summary["max"]) == (1025, 65537)
    bins = dict(zip(summary["edges"], summary["histogram"], strict=True))
    assert {edge: times for edge, times in bins.items() if times} == {1024: 2, 2048: 2, 32768: 1, 65536: 1}


def test_huge_ratings_do_not_break_the_audit():
    moments = Moments()
    for value in (1e308, -1e308, 1e308):
        moments.add(value)
    assert moments.summary()["std"] is None
    assert moments.summary()["max"] == 1e308


def test_all_of_converting_is_lazy():
    def endless():
        raise AssertionError("nothing may be read before it is asked for")
        yield

    convert_each(endless(), Columns(MAPPING), None, Limits())
