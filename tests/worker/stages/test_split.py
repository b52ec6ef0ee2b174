import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from app.ingest.ingest import ingest
from worker.models.template import ChatTurn
from worker.stages.conversations import find_conversations, find_opening
from worker.stages.split import split, split_by_conversation, split_by_prompt


@dataclass(frozen=True)
class Placed:
    """What a split looks at."""

    conversation: int
    turns: tuple[ChatTurn, ...] = ()


def ids(side: list[Placed]) -> set[int]:
    return {one.conversation for one in side}


def test_a_conversation_is_wholly_on_one_side_and_the_share_is_kept() -> None:
    chance = random.Random(2)
    examples = [Placed(chance.randrange(80)) for _ in range(400)]
    train, held_out = split_by_conversation(examples, 0.2, 7)
    assert len(held_out) == 80
    assert not ids(train) & ids(held_out)
    assert len(train) == 320
    assert split_by_conversation(examples, 0.2, 7)[1] == held_out != split_by_conversation(examples, 0.2, 8)[1]


def test_other_data_hold_out_the_same_conversations() -> None:
    examples = [Placed(k) for k in range(1000)]
    first = ids(split_by_conversation(examples, 0.1, 3)[1])
    fewer = ids(split_by_conversation([e for e in examples if e.conversation % 50], 0.1, 3)[1])
    assert len(fewer - first) <= 3
    assert first < ids(split_by_conversation(examples, 0.3, 3)[1])


def test_what_is_larger_than_the_share_stays() -> None:
    examples = [Placed(0)] * 50 + [Placed(k) for k in range(1, 51)]
    train, held_out = split_by_conversation(examples, 0.3, 1)
    assert len(held_out) == 30
    assert 0 in ids(train)
    assert ids(split_by_conversation([Placed(0)] * 6 + [Placed(1)] * 4, 0.05, 1)[1]) == {1}


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_one_conversation_stays_for_training(share: float) -> None:
    assert split_by_conversation([Placed(4)] * 5, share, 0) == ([Placed(4)] * 5, [])
    assert len(split_by_conversation([Placed(4), Placed(5)], share, 0)[1]) == 1
    assert split_by_conversation([], share, 0) == ([], [])


def test_nothing_is_held_out_where_none_is_wanted() -> None:
    examples = [Placed(k) for k in range(9)]
    assert split_by_conversation(examples, 0, 0) == (examples, [])
    assert split_by_prompt(examples, 0, 0) == (examples, [])


def test_the_rule_of_old_runs_splits_as_it_did() -> None:
    """Bit for bit: a run that was begun under it goes on with the same examples."""
    examples = [Placed(0, (ChatTurn("user", f"prompt {k % 7}"),)) for k in range(20)]
    train, held_out = split(examples, 0.3, 5, "prompt")
    assert [one.turns[0].content for one in held_out] == [f"prompt {k}" for k in (0, 1, 0, 1, 0, 1)]
    assert len(train) + len(held_out) == 20


@dataclass(frozen=True)
class Row:
    """An example of a real data set."""

    turns: tuple[ChatTurn, ...]
    answers: list[str]
    conversation: int = 0

    @property
    def texts(self) -> list[str]:
        return [" ".join(turn.content.split()).casefold() for turn in self.turns]

    @property
    def learned(self) -> set[str]:
        return {" ".join(answer.split()).casefold() for answer in self.answers}


def read_rows(source: Path, target: Path) -> Iterator[Row]:
    ingest(source, target)
    for row in pq.read_table(target, columns=["prompt", "responses"]).to_pylist():
        turns = tuple(ChatTurn(turn["role"], turn["content"]) for turn in row["prompt"])
        yield Row(turns, [response["content"] for response in row["responses"]])


def leaked(train: list[Row], held_out: list[Row]) -> list[Row]:
    """The held-out prompts that share their first user turn with training, or hold an answer that is learned; by looking."""
    begun = {next(iter(row.texts)) for row in train}
    learned = {answer for row in train for answer in row.learned}
    long = [answer for answer in learned if len(answer) >= 20]
    turns = {answer for answer in learned if len(answer) >= 10}
    return [
        row
        for row in held_out
        if row.texts[0] in begun or turns & set(row.texts) or any(answer in text for text in row.texts for answer in long)
    ]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "leaks"),
    [("hh/helpful-base.jsonl", True), ("ultrafeedback/train_clean.first700.jsonl", False)],
    ids=["hh", "feedback"],
)
def test_no_held_out_prompt_of_real_data_shares_a_conversation_or_holds_a_learned_answer(shared, tmp_path, name, leaks):
    rows = list(read_rows(shared / "data" / name, tmp_path / "examples.parquet"))
    prompts, answers = [row.turns for row in rows], [row.answers for row in rows]
    numbers = find_conversations(prompts, list(map(find_opening, prompts)), answers)
    rows = [Row(row.turns, row.answers, number) for row, number in zip(rows, numbers, strict=True)]
    for seed in (0, 1):
        train, held_out = split_by_conversation(rows, 0.05, seed)
        assert len(held_out) == pytest.approx(0.05 * len(rows), abs=1)
        assert leaked(train, held_out) == []
        validation, test = split_by_conversation(held_out, 0.5, seed)
        assert len(test) == pytest.approx(len(held_out) / 2, abs=1)
        assert leaked(validation, test) == []
    assert (len(leaked(*split_by_prompt(rows, 0.05, 0))) > 5) is leaks  # what the old rule let through
