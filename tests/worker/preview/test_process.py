"""The previewing process itself: warm, one job a line, sentences for errors, gone when nobody asks."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from app.commands import client
from app.domain.errors import InvalidInput
from app.domain.preview.weights import PreviewJob, PreviewResult
from app.web.api import models
from tests.worker.kept_scoring import draw_examples, draw_scores, keep_scoring, make_plan, write_dataset
from tests.worker.models.families import FAMILIES, Family
from tests.worker.workshop import CHECKOUT
from worker.preview import __main__ as process
from worker.preview.grid import preview
from worker.preview.scores import KeptScorings


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> PreviewJob:
    folder = tmp_path_factory.mktemp("scorings")
    examples = draw_examples(40)
    batches = make_plan(examples, 8)
    dataset = write_dataset(folder / "examples.parquet", examples)
    return keep_scoring(folder, batches, *draw_scores(batches), dataset=dataset, request={"lambda": [0.1, 1.0]})


def start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "worker.preview", *options], cwd=CHECKOUT, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def child() -> Iterator[subprocess.Popen[str]]:
    process = start()
    yield process
    process.communicate(timeout=20)
    assert process.returncode == 0


def ask(child: subprocess.Popen[str], line: str) -> dict:
    child.stdin.write(f"{line}\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())


def test_a_job_is_answered_with_its_preview(child, job):
    result = PreviewResult.model_validate(ask(child, job.model_dump_json())["result"])
    expected = preview(job)
    assert [cell.metrics for cell in result.cells] == [cell.metrics for cell in expected.cells]
    assert result.cells[0].heaviest == expected.cells[0].heaviest
    assert result.cells[0].heaviest[0].content.startswith("answer")
    assert result.suggestions == expected.suggestions
    assert result.check == expected.check


def test_errors_are_sentences_and_the_process_goes_on(child, job):
    refused = ask(child, job.model_copy(update={"request": {"lambda": [0.0], "presets": ["none"]}}).model_dump_json())["error"]
    assert refused["code"] == "invalid-input"
    assert {problem["field"] for problem in refused["problems"]} == {"lambda.0", "presets.0"}
    gone = ask(child, job.model_copy(update={"index_key": "index-none"}).model_dump_json())["error"]
    assert gone["code"] == "not-found"
    assert "Make the scoring again" in gone["detail"]
    assert ask(child, '{"scorings_dir": 1}')["error"]["code"] == "invalid-input"
    assert "The worker's log" in ask(child, "no json")["error"]["detail"]
    assert ask(child, job.model_dump_json())["result"]["num_batches"] == 5


def test_a_warm_process_answers_at_once(child, job, clock):
    ask(child, job.model_dump_json())
    began = time.monotonic()
    answer = ask(child, job.model_dump_json())
    seconds = time.monotonic() - began
    assert answer["result"]["seconds"] <= seconds
    clock.check(seconds, 2)


def test_it_holds_no_library_of_models():
    """Transformers would take seconds and a hundred megabytes more."""
    code = "import sys, worker.preview; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == 0


def test_several_jobs_may_wait_in_line(child, job):
    child.stdin.write(f"{job.model_dump_json()}\n" * 3)
    child.stdin.flush()
    assert [len(json.loads(child.stdout.readline())["result"]["cells"]) for _ in range(3)] == [2, 2, 2]


def test_it_leaves_when_nobody_asks_for_a_while():
    with start("0.2") as process:
        assert process.wait(timeout=60) == 0


def reading_of(folder, family) -> str:
    folder.mkdir(exist_ok=True)
    family.tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    request = {"kind": "conversation", "model_id": "m", "messages": [
        {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."},
    ]}  # fmt: skip
    model = {"source": "folder", "path": str(folder)}
    return json.dumps({"request": request, "kind": "policy", "model": model, "hub_dir": str(folder)})


def test_a_reading_is_made_by_the_same_process(child, job, tmp_path):
    reading = ask(child, reading_of(tmp_path, FAMILIES["chatml on a base model"]))["result"]
    assert [run["part"] for run in reading["view"]["runs"]] == ["prompt", "answer", "end"]
    assert ask(child, job.model_dump_json())["result"]["num_batches"] > 0


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "the chat template comes to no end",
        ),
        (
            "{% set ns = namespace(t='x' * 2 ** 20) %}{% for a in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
            "gib of memory",
        ),
    ],
)
def test_a_template_without_end_costs_its_own_reading_alone(tmp_path, job, monkeypatch, template, sentence):
    monkeypatch.setattr(process, "READ_SECONDS", 3)
    family = Family(template, "")
    refused = process.answer(reading_of(tmp_path, family).encode(), KeptScorings())
    told = refused["error"]["detail"] if "error" in refused else refused["result"]["unusable"]
    if "error" in refused:  # not one that passes: it would be read again and again
        assert (refused["error"]["code"], refused["error"]["problems"][0]["field"]) == (InvalidInput("").code, "chat_template")
    assert sentence in told.lower()
    assert "result" in process.answer(job.model_dump_json().encode(), KeptScorings())


def test_a_check_waits_longer_than_a_reading_may_take_and_shorter_than_a_client_waits():
    assert process.WAIT_SECONDS < models.CHECK_WAIT_SECONDS < client.TIMEOUT_SECONDS
