"""A model behind an endpoint answers and judges: kept as it comes, asked for nothing twice, whatever the server does."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.answering.endpoint import EndpointSource
from app.domain.answering.job import AnswersSpec, JudgeJob, OpponentSource
from app.domain.answering.judge import LlmJudge
from app.system.outgoing.pace import Retries
from tests.standin import Dropped, StandIn, Wrong, running
from tests.worker.stages.answering.conftest import LENGTH, answers_of, make_prompts, read_rows
from tests.worker.workshop import read_events
from worker.stages.answering import replies

MAX_NEW_TOKENS = 8


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "RETRIES", Retries(num_tries=2, first_seconds=0.0))


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with running(StandIn(lambda number, asked: f"Said of {asked['messages'][-1]['content']} by {asked['seed']}.")) as stand_in:
        yield stand_in


def source_of(stand_in: StandIn, **changes: object) -> EndpointSource:
    told = {"id": "endpoint_lab", "name": "Lab", "address": stand_in.address, "model": "small", "allowed_hosts": ("127.0.0.1",)}
    return EndpointSource.model_validate({**told, **changes})


def serve(answering, stand_in: StandIn, **changes: object) -> Path:
    """An attempt whose model is behind the stand-in."""
    folder = answering.attempt(**changes)
    spec = AnswersSpec.model_validate_json((folder / "spec.json").read_text())
    root = str(answering.root / "verdicts")
    there = spec.model_copy(update={"model": None, "endpoint": source_of(stand_in), "verdicts_dir": root})
    (folder / "spec.json").write_text(there.model_dump_json(by_alias=True))
    return folder


def outcome(folder: Path) -> dict:
    return read_events(folder, "outcome")[-1]["payload"]


def test_every_prompt_is_asked_so_many_times_with_seeds_of_its_own(answering, run, stand_in):
    folder = serve(answering, stand_in, temperature=0.7, top_p=0.9)
    assert run(folder) == 0
    rows = read_rows(answers_of(folder))
    assert [(row["index"], row["draw"]) for row in rows] == [(k, draw) for k in range(5) for draw in (0, 1)]
    assert len({row["text"] for row in rows}) == 10
    assert {(row["logprob"], row["num_tokens"], row["finished"]) for row in rows} == {(None, 5, True)}
    assert {(one["temperature"], one["top_p"], one["max_tokens"]) for one in stand_in.asked} == {(0.7, 0.9, MAX_NEW_TOKENS)}
    facts = read_events(folder, "answers")[-1]["payload"]["answers"]
    assert (facts["num_answers"], facts["num_tokens"], facts["num_missing"], facts["model_sha256"]) == (10, 50, 0, None)
    again = serve(answering, stand_in, temperature=0.7, top_p=0.9)
    assert run(again) == 0
    assert [row["text"] for row in read_rows(answers_of(again))] == [row["text"] for row in rows]


WITHOUT_TORCH = """
import sys
from worker import runner
status = runner.main(sys.argv[1:])
assert not {"torch", "transformers", "numpy"} & set(sys.modules), "torch was imported"
sys.exit(status)
"""


def test_what_is_at_endpoints_is_asked_without_torch(answering, stand_in):
    grade = JudgeJob(key="grade", judge=LlmJudge(endpoint="endpoint_lab"), endpoint=source_of(stand_in))
    folder = serve(answering, stand_in, judges=(LENGTH, grade), num_draws=1)
    told = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, folder], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert len(read_rows(answers_of(folder))) == len(read_rows(answers_of(folder) / "scores" / "grade")) == 5


def test_a_question_of_several_turns_is_asked_turn_by_turn(answering, run, stand_in):
    folder = serve(answering, stand_in, prompts=make_prompts(1, several=True), num_draws=1)
    assert run(folder) == 0
    (row,) = read_rows(answers_of(folder))
    assert [message["role"] for message in stand_in.asked[-1]["messages"]] == ["user", "assistant", "user"]
    assert row["earlier"] == [stand_in.asked[-1]["messages"][1]["content"]]
    assert row["text"].startswith("Said of and the red kettle?")


@pytest.mark.parametrize("wrong", [Dropped(), Wrong(500), Wrong(200, b"nonsense")], ids=["dropped", "500", "nonsense"])
def test_a_run_that_fails_half_way_goes_on_and_asks_nothing_twice(answering, run, stand_in, wrong):
    good = stand_in.respond
    stand_in.respond = lambda number, asked: good(number, asked) if number <= 6 else wrong
    folder = serve(answering, stand_in)
    assert run(folder) != 0
    told = outcome(folder)
    assert "The endpoint Lab gave no answer." in told["reason"]
    assert "What it has said is kept: resume the run" in told["reason"]
    assert read_rows(answers_of(folder)) == []  # no part is whole
    stand_in.respond = good
    before = len(stand_in.asked)
    again = serve(answering, stand_in, answers_dir=answers_of(folder))
    assert run(again) == 0
    assert len(stand_in.asked) - before == 4
    assert len({row["text"] for row in read_rows(answers_of(folder))}) == 10
    assert [path for path in answers_of(folder).rglob("*.json") if path.parent.parent.name == "replies"] == []


def test_a_server_that_asks_for_patience_is_given_it(answering, run, stand_in):
    good = stand_in.respond
    stand_in.respond = lambda number, asked: Wrong(429, headers=(("retry-after", "0"),)) if number == 3 else good(number, asked)
    folder = serve(answering, stand_in)
    assert run(folder) == 0
    assert len(stand_in.asked) == 11
    assert len(read_rows(answers_of(folder))) == 10


def test_a_question_that_is_refused_is_left_out_and_told(answering, run, stand_in):
    good, refusal = stand_in.respond, Wrong(400, b'{"error": {"message": "too long"}}')
    stand_in.respond = lambda number, asked: refusal if "lamp" in asked["messages"][0]["content"] else good(number, asked)
    folder = serve(answering, stand_in)
    assert run(folder) == 0
    assert {row["index"] for row in read_rows(answers_of(folder))} == {0, 1, 3, 4}
    assert read_events(folder, "answers")[-1]["payload"]["answers"]["num_missing"] == 1
    assert "refuses to answer prompt 3" in read_events(folder, "log")[-1]["payload"]["text"]


def test_an_endpoint_that_refuses_everything_fails_the_run(answering, run, stand_in):
    stand_in.respond = lambda number, asked: Wrong(422, b'{"detail": "seed is unknown"}')
    folder = serve(answering, stand_in)
    assert run(folder) != 0
    assert "seed is unknown" in outcome(folder)["reason"]


def test_a_private_address_that_is_not_listed_fails_the_run(answering, run, stand_in):
    folder = serve(answering, stand_in)
    spec = AnswersSpec.model_validate_json((folder / "spec.json").read_text())
    hidden = spec.model_copy(update={"endpoint": source_of(stand_in, allowed_hosts=())})
    (folder / "spec.json").write_text(hidden.model_dump_json(by_alias=True))
    assert run(folder) != 0
    assert "STUDIO_ENDPOINT_ALLOWED_HOSTS" in outcome(folder)["reason"]
    assert stand_in.asked == []


def judged(answering, stand_in: StandIn, folder: Path, *, against: Path | None, key: str = "llm") -> Path:
    """An attempt at judging the answers of another attempt, by the stand-in."""
    opponent = OpponentSource(folder=str(answers_of(against)), num_draws=2, max_new_tokens=8) if against else None
    judge = LlmJudge(endpoint="endpoint_lab", against="answers_other" if against else None)
    job = JudgeJob(key=key, judge=judge, endpoint=source_of(stand_in), opponent=opponent)
    return serve(answering, stand_in, answers_dir=answers_of(folder), judges=(LENGTH, job))


@pytest.fixture
def two(answering, run, stand_in) -> tuple[Path, Path]:
    """Two models' answers: the first one's all begin with “Said”."""
    first = serve(answering, stand_in)
    assert run(first) == 0
    stand_in.respond = lambda number, asked: f"Mumbled {asked['seed']}."
    second = serve(answering, stand_in)
    assert run(second) == 0
    stand_in.asked.clear()
    return first, second


def shows_first(asked: dict) -> bool:
    """Whether the better answer stands first in what the judge reads."""
    text = asked["messages"][0]["content"]
    return text.index("Said of") < text.index("Mumbled")


def lines_of(folder: Path, key: str = "llm") -> list[dict]:
    return read_rows(answers_of(folder) / "scores" / key)


def facts_of(folder: Path, key: str = "llm") -> dict:
    return next(e["payload"]["judgement"] for e in read_events(folder, "judgement") if e["payload"]["key"] == key)


def test_a_judge_compares_in_both_orders(answering, run, stand_in, two):
    stand_in.respond = lambda number, asked: f"Because.\nVerdict: {'A' if shows_first(asked) else 'B'}"
    folder = judged(answering, stand_in, two[0], against=two[1])
    assert run(folder) == 0
    assert {(line["score"], line["first"], line["second"]) for line in lines_of(folder)} == {(1.0, "win", "win")}
    assert (len(lines_of(folder)), len(stand_in.asked)) == (10, 20)
    assert {asked["temperature"] for asked in stand_in.asked} == {0.0}
    facts = facts_of(folder)
    assert (facts["mean"], facts["verdicts"]["first_share"], facts["verdicts"]["num_agreed"]) == (1.0, 0.5, 10)


def test_a_judge_who_likes_the_first_place_gives_half_and_is_found_out(answering, run, stand_in, two):
    stand_in.respond = lambda number, asked: "Verdict: A"
    folder = judged(answering, stand_in, two[0], against=two[1])
    assert run(folder) == 0
    assert {line["score"] for line in lines_of(folder)} == {0.5}
    assert facts_of(folder)["verdicts"]["first_share"] == 1.0


def test_what_a_judge_said_is_not_asked_again(answering, run, stand_in, two):
    stand_in.respond = lambda number, asked: "Verdict: tie" if number <= 15 else Wrong(503)
    folder = judged(answering, stand_in, two[0], against=two[1])
    assert run(folder) != 0
    num_said = len(list((answering.root / "verdicts").rglob("*.json")))
    stand_in.respond = lambda number, asked: "Verdict: tie"
    stand_in.asked.clear()
    again = judged(answering, stand_in, two[0], against=two[1])
    assert run(again) == 0
    assert (num_said, len(stand_in.asked)) == (15, 5)
    elsewhere = judged(answering, stand_in, two[0], against=two[1], key="another")
    assert run(elsewhere) == 0
    assert len(stand_in.asked) == 5
    assert {line["score"] for line in lines_of(elsewhere, "another")} == {0.5}


def test_verdicts_that_can_not_be_read_are_counted(answering, run, stand_in, two):
    stand_in.respond = lambda number, asked: "I like both." if shows_first(asked) else "Verdict: B"
    folder = judged(answering, stand_in, two[0], against=two[1])
    assert run(folder) == 0
    facts = facts_of(folder)
    assert (facts["num_scored"], facts["mean"]) == (0, None)
    assert (facts["verdicts"]["num_unread"], facts["verdicts"]["num_verdicts"]) == (10, 20)


def test_equal_answers_are_a_tie_without_asking(answering, run, stand_in, two):
    folder = judged(answering, stand_in, two[0], against=two[0])
    assert run(folder) == 0
    assert stand_in.asked == []
    assert {line["score"] for line in lines_of(folder)} == {0.5}


def test_a_judge_without_an_opponent_grades(answering, run, stand_in, two):
    stand_in.respond = lambda number, asked: "Fine.\nGrade: 7"
    folder = judged(answering, stand_in, two[0], against=None)
    assert run(folder) == 0
    assert {line["score"] for line in lines_of(folder)} == {7.0}
    assert facts_of(folder)["verdicts"]["prompt"] == "grade-1"
    assert json.dumps(lines_of(folder)[0])
