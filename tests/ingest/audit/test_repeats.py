"""What repeats or contradicts is counted with its lines, and left out when that is wanted."""

import json
import os
import random
import subprocess
import sys

import pytest

from app.domain.dataset import CHOSEN, NEITHER, REJECTED
from app.ingest.audit import repeats
from app.ingest.audit.repeats import Repeats, key_of
from app.ingest.examples import Candidate, UnnumberedExample
from app.ingest.messages import Turn

PAIR = {"prompt": "Hi", "chosen": "good", "rejected": "bad"}
SWAPPED = {"prompt": "Hi", "chosen": "bad", "rejected": "good"}
COLUMNS = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
RATED = {**COLUMNS, "rating_chosen": "a", "rating_rejected": "b"}


def switched(*options, columns=COLUMNS):
    return {"shape": "pair", "columns": columns, "options": dict.fromkeys(options, True)}


def noted(read):
    return {note.note: note.lines for note in read.audit.notes}


def test_each_kind_is_counted_with_its_lines(read_rows):
    rows = [{**PAIR, "a": 1, "b": 2}, {**PAIR, "a": 2, "b": 1}, {**SWAPPED, "a": 2, "b": 1}]
    near = {"prompt": "hi!", "chosen": "Good", "rejected": "bad.", "a": 0, "b": 0}
    read = read_rows(*rows, near, mapping=switched(columns=RATED))
    assert noted(read) == {
        "best rating is not the chosen one": [1],
        "repeats an earlier example": [2],
        "an earlier example prefers its responses the other way round": [3],
        "nearly repeats an earlier example": [4],
        "rating tie": [4],
    }
    facts = read.audit.facts
    names = ("num_contradicting_ratings", "num_duplicate_examples", "num_contradictory_pairs", "num_near_duplicates")
    assert [facts[name] for name in names] == [1, 1, 1, 1]
    assert facts["duplicates_complete"] is True


@pytest.mark.parametrize(("option", "left_out"), [
    ("leave_out_contradicting_ratings", {"best rating is not the chosen one": [1]}),
    ("leave_out_duplicates", {"repeats an earlier example": [3]}),
    ("leave_out_near_duplicates", {"nearly repeats an earlier example": [5]}),
    ("leave_out_contradictory_pairs", {"an earlier example prefers its responses the other way round": [2, 3, 4]}),
])  # fmt: skip
def test_a_switch_leaves_one_kind_out(read_rows, option, left_out):
    other = {"prompt": "Why?", "chosen": "x", "rejected": "y"}
    rows = [{**other, "a": 1, "b": 2}, PAIR, PAIR, SWAPPED, {**other, "prompt": "why"}]
    read = read_rows(*rows, mapping=switched(option, columns=RATED))
    assert read.dropped == left_out
    (reason,) = left_out
    assert reason not in noted(read)
    assert read.audit.num_kept_rows == len(read.examples) == 5 - len(left_out[reason])


def test_an_example_out_of_a_tree_is_left_out_without_its_row(read_rows):
    def node(text, replies):
        return {"text": text, "role": "prompter", "replies": replies}

    def ranked(after=()):
        return [{"text": text, "role": "assistant", "rank": rank, "replies": [*after]} for rank, text in enumerate("ab")]

    tree = node("Hi", ranked([node("Hi", ranked())]))
    row = {"tree": tree}
    options = {"leave_out_duplicates": True}
    read = read_rows(row, row, mapping={"shape": "reply_tree", "columns": {"tree": "tree"}, "options": options})
    assert (read.audit.num_rows, read.audit.num_kept_rows, len(read.examples)) == (2, 2, 3)
    assert noted(read)["example left out: repeats an earlier example"] == [2, 2, 2]


def test_groups_are_left_out_with_all_their_rows(read_rows):
    rows = [{"p": prompt, "r": response, "s": score} for prompt in "aba" for response, score in (("x", 1), ("y", 2))]
    mapping = {"shape": "rated", "columns": {"prompt": "p", "response": "r", "rating": "s"}}
    options = {"group_by_prompt": True, "leave_out_duplicates": True}
    read = read_rows(*rows, mapping={**mapping, "options": options})
    assert [(item.reason, item.count, item.lines) for item in read.audit.dropped] == [("repeats an earlier example", 2, [5])]
    assert read.audit.num_kept_rows == 4


WORDS = [f"{chr(97 + n % 26)}{chr(97 + n * 7 % 26)}y{n}" if n % 9 == 0 else f"word{n}" for n in range(5000)]


def example(words, prompt="Tell me more."):
    half = len(words) // 2
    return UnnumberedExample(
        [Turn("user", prompt)],
        [Candidate(" ".join(words[:half]), None, CHOSEN), Candidate(" ".join(words[half:]), None, REJECTED)],
    )


def test_a_few_changed_words_of_many_are_nearly_a_repetition_and_many_are_not():
    draw = random.Random(0)
    found, others = 0, 0
    for _ in range(200):
        seen = Repeats({})
        words = draw.choices(WORDS, k=400)
        assert seen.look(example(words)) == []
        few, many = list(words), list(words)
        few[draw.randrange(400)] = "different"
        for place in draw.sample(range(400), 120):
            many[place] = "different"
        found += seen.look(example(few)) == [repeats.NEAR_DUPLICATE]
        others += seen.look(example(many)) != []
    assert found >= 180
    assert others == 0


def test_a_long_system_message_makes_nothing_alike():
    seen = Repeats({})
    system = Turn("system", " ".join(WORDS[:2000]))
    draw = random.Random(1)
    drafts = [example(draw.choices(WORDS, k=300)) for _ in range(50)]
    assert [seen.look(draft._replace(prompt=[system, *draft.prompt])) for draft in drafts] == [[]] * 50


def test_turns_of_one_dialogue_with_other_answers_are_not_alike():
    seen = Repeats({})
    draw = random.Random(2)
    turns = [Turn(role, " ".join(draw.choices(WORDS, k=100))) for role in ("user", "assistant") * 9]
    for n in range(1, 18, 2):
        assert seen.look(example(draw.choices(WORDS, k=300))._replace(prompt=turns[:n])) == []


def test_chinese_texts_are_compared_too():
    draw = random.Random(3)
    text = "".join(chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(1500))
    seen = Repeats({})
    assert seen.look(example([text, "坏"])) == []
    assert seen.look(example([text[:700] + "好" + text[701:], "坏"])) == [repeats.NEAR_DUPLICATE]


@pytest.mark.parametrize(("one", "other", "same", "opposite"), [
    ([("a", CHOSEN), ("b", REJECTED)], [("a", CHOSEN), ("b", REJECTED)], True, False),
    ([("a", CHOSEN), ("b", REJECTED)], [("b", CHOSEN), ("a", REJECTED)], False, True),
    ([("a", NEITHER), ("b", NEITHER)], [("b", NEITHER), ("a", NEITHER)], True, False),
    ([("a", NEITHER), ("b", NEITHER)], [("b", CHOSEN), ("a", REJECTED)], False, False),
    ([("a", CHOSEN)], [("a", REJECTED)], False, True),
    ([("a", CHOSEN), ("b", REJECTED)], [("a", CHOSEN), ("c", REJECTED)], False, False),
])  # fmt: skip
def test_keys_tell_the_same_and_the_opposite(one, other, same, opposite):
    keys = [
        key_of(UnnumberedExample([Turn("user", "Hi")], [Candidate(text, None, mark) for text, mark in side]))
        for side in (one, other)
    ]
    assert ((keys[0] == keys[1]), (keys[0] ^ 1 == keys[1])) == (same, opposite)


def test_what_is_nearly_the_same_is_so_in_every_process(tmp_path):
    rows = [
        {"prompt": f"{n % 40} {' '.join(WORDS[n % 40 : n % 40 + 200])}", "chosen": f"{n} a", "rejected": "b"} for n in range(120)
    ]
    source = tmp_path / "source"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = (
        "import sys; from pathlib import Path; from app.ingest.ingest import ingest; "
        "notes = ingest(Path(sys.argv[1]), Path(sys.argv[2])).audit.notes; print([(note.note, note.lines) for note in notes])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code, str(source), str(tmp_path / seed)],
            check=True, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1
    assert "nearly repeats" in told.pop()


def test_memory_stays_bounded_and_the_audit_says_so(read_rows, monkeypatch):
    monkeypatch.setattr(repeats, "MAX_DISTINCT", 2)
    rows = [{**PAIR, "prompt": prompt} for prompt in "abcd"]
    assert read_rows(*rows).audit.facts["duplicates_complete"] is False
