"""Dialogues as text under other tags than the usual ones: named in the mapping, or found where all texts have them."""

import pytest

from app.ingest.texts.tagged import TaggedTexts, Tags, find_tags

START = "## Human: Hi\n\n## Assistant: Hello.\n## Human:\nAnd\n\nyou?\n## Assistant:"
TURNS = [("user", "Hi"), ("assistant", "Hello."), ("user", "And\n\nyou?")]
TAGS = {"user_tag": "## Human:", "assistant_tag": "## Assistant:"}


def test_tags_that_all_texts_have_are_recognised(read_rows):
    read = read_rows({"chosen": START + " Fine.", "rejected": START + " Bad."})
    assert (read.shape, read.mapping.options) == ("transcript_pair", TAGS)
    assert (read.prompts(), read.pairs()) == ([TURNS], [("Fine.", "Bad.")])


def test_named_tags_read_prompts_too(read_rows):
    row = {"prompt": START, "chosen": "Fine.", "rejected": "Bad."}
    noted = read_rows(row).audit.notes
    assert [note.note.partition(':"')[0] for note in noted] == ['texts look like dialogues under "## Human']
    columns = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    read = read_rows(row, mapping={"shape": "pair", "columns": columns, "options": TAGS})
    assert (read.prompts(), read.audit.notes) == ([TURNS], [])


def test_a_tag_is_named_exactly_and_stands_where_a_line_starts():
    read = TaggedTexts(Tags("U>", "A>", "S>")).read
    assert read("S> x\nU> a A> b\nA> c") == [
        {"role": "system", "content": "x"}, {"role": "user", "content": "a A> b"}, {"role": "assistant", "content": "c"},
    ]  # fmt: skip
    assert read("no U> tag") == "no U> tag"
    assert read("before\nU> a") == "before\nU> a"


@pytest.mark.parametrize(("text", "tags"), [
    ("USER: a\nASSISTANT: b", ("USER:", "ASSISTANT:")),
    ("### Instruction:\na\n\n### Response:\n", ("### Instruction:", "### Response:")),
    ("**User:** a\n**Bot:** b", ("**User:**", "**Bot:**")),
    ("Q: a\nA: b", ("Q:", "A:")),
    ("Who is the user: a or b?", None), ("User: alone", None), ("plain", None),
])  # fmt: skip
def test_usual_tags_are_found(text, tags):
    found = find_tags([text, text])
    assert (found and found[:2]) == tags


LISTS = {"prompt": "Hi", "chosen": ["a", "b", "c"], "rejected": ["d", "e"]}
COLUMNS = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}


def test_lists_of_responses_make_all_pairs(read_rows):
    read = read_rows(
        LISTS, {"prompt": "Ho", "chosen": ["a"], "rejected": ["b"]}, {"prompt": "Hu", "chosen": [], "rejected": ["b"]}
    )
    assert read.mapping.options == {"lists": "pairs"}
    assert read.pairs() == [*((x, y) for x in "abc" for y in "de"), ("a", "b")]
    assert (read.dropped, read.audit.facts["rows_per_example"]) == (
        {"missing response": [3]}, "a row holds one example for each chosen with each rejected response"
    )  # fmt: skip


@pytest.mark.parametrize("row", [
    LISTS, {**LISTS, "chosen": '["a", "b", "c"]', "rejected": "['d', 'e']"},
    {**LISTS, "chosen": "['a' 'b'\n 'c']", "rejected": "['d' \"e\"]"},
], ids=["lists", "written as JSON and by Python", "printed by numpy"])  # fmt: skip
def test_lists_of_responses_may_stay_together(read_rows, row):
    read = read_rows(row, mapping={"shape": "pair", "columns": COLUMNS, "options": {"lists": "together"}})
    answers = read.examples[0]["responses"]
    assert [(answer["content"], answer["preference"]) for answer in answers] == [(t, 1) for t in "abc"] + [(t, -1) for t in "de"]


def test_texts_with_quotes_side_by_side_stay_whole(read_rows):
    said = ["say 'a' 'b'", 'say "a" "b" \'']
    row = {**LISTS, "chosen": repr(said), "rejected": " ".join(map(repr, ["'x' y", "z"])).join("[]")}
    read = read_rows(row, mapping={"shape": "pair", "columns": COLUMNS, "options": {"lists": "together"}})
    assert [answer["content"] for answer in read.examples[0]["responses"]] == [*said, "'x' y", "z"]


def test_of_lists_that_stay_together_what_stands_on_both_sides_is_left_out_and_noted(read_rows):
    rows = [{**LISTS, "rejected": ["d", "b ", "c"]}, {"prompt": "Ho", "chosen": ["a"], "rejected": ["a"]}]
    read = read_rows(*rows, mapping={"shape": "pair", "columns": COLUMNS, "options": {"lists": "together"}})
    assert [answer["content"] for answer in read.examples[0]["responses"]] == ["a", "d"]
    noted = {note.note: (note.count, note.lines) for note in read.audit.notes}
    assert noted == {"skipped response: it stands among the chosen and among the rejected ones": (2, [1, 1])}
    assert read.dropped == {"identical responses": [2]}


def test_calls_with_other_arguments_are_other_responses_of_a_list(read_rows):
    called = [[{"role": "assistant", "content": None, "function_call": {"name": name}}] for name in ("look", "ask")]
    row = {"prompt": "Hi", "chosen": [called[0]], "rejected": [called[1]]}
    read = read_rows(row, mapping={"shape": "pair", "columns": COLUMNS, "options": {"lists": "together"}})
    assert len(read.examples[0]["responses"]) == 2
