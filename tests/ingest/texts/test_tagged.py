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


@pytest.mark.parametrize("row", [LISTS, {**LISTS, "chosen": '["a", "b", "c"]', "rejected": "['d', 'e']"}])
def test_lists_of_responses_may_stay_together(read_rows, row):
    read = read_rows(row, mapping={"shape": "pair", "columns": COLUMNS, "options": {"lists": "together"}})
    answers = read.examples[0]["responses"]
    assert [(answer["content"], answer["preference"]) for answer in answers] == [(t, 1) for t in "abc"] + [(t, -1) for t in "de"]
