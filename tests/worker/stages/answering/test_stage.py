"""The runner at a run of kind answers: drawn the same whatever else is asked, kept in parts, judged, and gone on with."""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest

from app.domain.answering import layout
from app.domain.answering.job import AnswersSpec
from tests.faults.runner import mishaps
from tests.worker.stages.answering.conftest import EXACT, LENGTH, answers_of, make_prompts, read_rows
from tests.worker.workshop import read_events
from worker.stages.answering.sources import hash_files

KILLED = -9


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of two prompts with two answers of eight tokens."""
    monkeypatch.setattr(layout, "PART_TOKENS", 32)


def run_forked(folder: Path, *mishap: str) -> int | None:
    """The runner as a process of its own, in which mishaps may happen; its exit status."""
    process = multiprocessing.get_context("fork").Process(target=lambda: exit(mishaps.run([*mishap, str(folder)])))
    process.start()
    process.join()
    return process.exitcode


def test_every_prompt_is_answered_so_many_times_with_log_probabilities(answering, run):
    folder = answering.attempt()
    assert run(folder) == 0
    rows, tokens = read_rows(answers_of(folder)), read_rows(answers_of(folder), "tokens-*.jsonl")
    assert [(row["index"], row["draw"]) for row in rows] == [(k, draw) for k in range(5) for draw in (0, 1)]
    for row, token in zip(rows, tokens, strict=True):
        assert row["num_tokens"] == len(token["ids"]) == len(token["logprobs"]) > 0
        assert row["logprob"] == pytest.approx(sum(token["logprobs"]), abs=1e-5)
        assert row["finished"] == (token["ids"][-1] == 0)
    assert len({row["text"] for row in rows}) > 5
    (kept,) = read_events(folder, "answers")
    facts = kept["payload"]["answers"]
    assert (facts["num_prompts"], facts["num_answers"]) == (5, 10)
    assert facts["num_tokens"] == sum(row["num_tokens"] for row in rows)
    assert len(facts["model_sha256"]) == 64


def test_an_answer_depends_on_nothing_that_is_asked_beside_it(answering, run, small_parts):
    """Fewer prompts, other parts, more draws: the same prompt and draw has the same answer."""
    many, few = answering.attempt(), answering.attempt(prompts=make_prompts(3), num_draws=3)
    assert (run(many), run(few)) == (0, 0)
    texts = {(row["prompt_id"], row["draw"]): row["text"] for row in read_rows(answers_of(many))}
    others = {(row["prompt_id"], row["draw"]): row["text"] for row in read_rows(answers_of(few))}
    shared = texts.keys() & others.keys()
    assert len(shared) == 6
    assert {key: texts[key] for key in shared} == {key: others[key] for key in shared}


def test_a_several_turn_question_is_answered_turn_by_turn(answering, workshop, run):
    prompts = make_prompts(2, several=True)
    folder = answering.attempt(prompts=prompts, model=workshop.policy(chat=True), judges=(answering.reward_judge(),))
    assert run(folder) == 0
    first, second = (row for row in read_rows(answers_of(folder)) if row["draw"] == 0)
    assert len(first["earlier"]) == 1
    assert "earlier" not in second
    assert len(read_rows(answers_of(folder) / "scores" / "reward")) == 4


def test_judges_say_what_they_think_of_every_answer(answering, run):
    folder = answering.attempt(judges=(answering.reward_judge(), LENGTH, EXACT))
    assert run(folder) == 0
    rows, where = read_rows(answers_of(folder)), answers_of(folder) / "scores"
    lengths = read_rows(where / "length")
    assert [row["score"] for row in lengths] == [len(row["text"]) for row in rows]
    assert {row["score"] for row in read_rows(where / "exact") if row["index"] % 2 == 0} == {None}  # no reference
    told = {event["payload"]["key"]: event["payload"]["judgement"] for event in read_events(folder, "judgement")}
    assert told["length"]["mean"] == pytest.approx(sum(row["score"] for row in lengths) / 10)
    assert (told["reward"]["num_scored"], told["exact"]["num_scored"]) == (10, 4)
    assert told["reward"]["se"] > 0
    assert told["reward"]["model_sha256"]


def test_a_judge_is_asked_later_without_answering_anew(answering, run):
    folder = answering.attempt()
    assert run(folder) == 0
    before = {path.name: path.stat().st_mtime_ns for path in answers_of(folder).glob("part-*")}
    later = answering.attempt(answers_dir=answers_of(folder), judges=(LENGTH,))
    assert run(later) == 0
    assert {path.name: path.stat().st_mtime_ns for path in answers_of(folder).glob("part-*")} == before
    assert len(read_rows(answers_of(folder) / "scores" / "length")) == 10


@pytest.mark.parametrize("point", ["artifact.written=kill@3", "artifact.written=kill@6", "artifact.written=kill@9"])
def test_a_runner_killed_twice_neither_doubles_nor_loses_an_answer(answering, run, small_parts, point):
    """Of three parts of answers and three of scores: killed before a part has its name, and again later."""
    whole = answering.attempt(judges=(LENGTH,))
    assert run(whole) == 0
    folder = answering.attempt(judges=(LENGTH,))
    assert run_forked(folder, point) == KILLED
    kept = {path: path.stat().st_mtime_ns for path in answers_of(folder).glob("part-*")}
    after = answering.workshop.next_attempt(folder)
    assert run_forked(after, "artifact.written=kill@2/2") == KILLED
    last = answering.workshop.next_attempt(after)
    assert run(last) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for pattern in ("part-*.jsonl", "tokens-*.jsonl", "scores/length/part-*.jsonl"):
        assert read_rows(answers_of(folder), pattern) == read_rows(answers_of(whole), pattern)
    assert list(answers_of(folder).rglob(".*")) == []


def test_a_superseded_runner_writes_nothing(answering, run):
    folder = answering.attempt()
    answering.workshop.next_attempt(folder)
    assert run(folder) == 12
    assert read_rows(answers_of(folder)) == []


def test_a_cancelled_run_stops_at_a_token(answering, run):
    folder = answering.attempt()
    (folder / "cancel").touch()
    assert run(folder) == 11


def test_another_models_answers_are_never_mixed_with(answering, workshop, run, tmp_path):
    """The same folder with other weights, as of a folder that was trained on meanwhile."""
    folder = answering.attempt(prompts=make_prompts(2))
    assert run(folder) == 0
    before = read_rows(answers_of(folder))
    changed = tmp_path / "changed"
    shutil.copytree(workshop.policy("qwen2"), changed)
    again = answering.attempt(prompts=make_prompts(2), model=changed, answers_dir=answers_of(folder))
    assert run(again) == 0
    assert read_rows(answers_of(folder)) != before
    assert "files have changed" in json.dumps(read_events(again, "log"))


def test_a_prompt_that_the_model_has_no_room_for_is_said_before_anything_is_answered(answering, run):
    folder = answering.attempt(prompts=make_prompts(5).replace(b"map", b"map " * 300))
    assert run(folder) == 10
    (outcome,) = read_events(folder, "outcome")
    assert outcome["payload"]["reason"].startswith("Prompt 4 of the set may come to")
    assert "the model reads 256" in outcome["payload"]["reason"]
    assert read_rows(answers_of(folder)) == []


def test_answers_named_by_the_hash_of_the_models_files_are_gone_on_with(answering, run):
    """As they were before tensors told models apart."""
    folder = answering.attempt()
    assert run(folder) == 0
    spec = AnswersSpec.model_validate_json((folder / "spec.json").read_text())
    claimed = answers_of(folder) / "model.json"
    claimed.write_text(json.dumps({"sha256": hash_files(spec, Path(spec.model.path))}))
    before = {path.name: path.stat().st_mtime_ns for path in answers_of(folder).glob("part-*")}
    later = answering.attempt(answers_dir=answers_of(folder), judges=(LENGTH,))
    assert run(later) == 0
    assert {path.name: path.stat().st_mtime_ns for path in answers_of(folder).glob("part-*")} == before
    claimed.write_text(json.dumps({"sha256": "another model's"}))
    anew = answering.attempt(answers_dir=answers_of(folder))
    assert run(anew) == 0
    assert {path.name: path.stat().st_mtime_ns for path in answers_of(folder).glob("part-*")} != before
