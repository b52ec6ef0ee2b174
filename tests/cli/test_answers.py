"""`varstudio prompt-sets`, `answers` and `farm`, against the web within this process."""

import json
from pathlib import Path

import pytest

from app.store.files.files import Files
from app.store.tables import Dataset
from tests.answered import QUESTIONS, answer_all


@pytest.fixture
def questions(tmp_path) -> Path:
    path = tmp_path / "questions.txt"
    path.write_text(QUESTIONS)
    return path


@pytest.fixture
def prompts(told, questions) -> str:
    return told("prompt-sets", "create", str(questions)).strip()


@pytest.fixture
def policy(studio) -> str:
    return str(studio.ingredients()["policy"]["model"])


def test_from_a_list_of_prompts_to_a_data_set(studio, told, questions, policy):
    prompts = told("prompt-sets", "create", str(questions), "--private").strip()
    assert "admin (private)" in told("prompt-sets", "list", "--mine")
    assert "shared with all members" in told("prompt-sets", "share", prompts)
    assert "questions.txt" in told("prompt-sets", "list")
    assert "references" in told("prompt-sets", "show", prompts)
    answers = told("answers", "create", prompts, "--model", policy, "--n", "2", "--judge", "length", "--private").strip()
    assert "admin (private)" in told("answers", "list", "--mine")
    assert "shared with all members" in told("answers", "share", answers)
    answer_all(studio.database, Files(studio.settings.root), answers)
    assert "ready" in told("answers", "list", "--prompt-set", prompts)
    assert "Length: 1.50 ± 0.500" in told("answers", "show", answers)
    read = told("answers", "read", answers, "--limit", "1").splitlines()
    assert read[:2] == ["Prompt 0, answer 0: Length 4.00", "  yes "]
    assert json.loads(told("answers", "read", answers, "--start", "3", "--json"))[0]["index"] == 3
    assert json.loads(told("answers", "tokens", answers, "--prompt", "1")) == []
    assert "data_" not in told("farm", answers, "--preview")
    assert told("farm", answers, "--judge", "Length").splitlines()[-1].startswith("data_")


def test_the_usual_judge_of_a_farm_is_no_length(client, studio, told, refused, questions, policy):
    questions.write_text("Who farms?\nWho waits?")
    prompts = told("prompt-sets", "create", str(questions)).strip()
    alone = told("answers", "create", prompts, "--model", policy, "--n", "2").strip()
    answer_all(studio.database, Files(studio.settings.root), alone)
    assert "Nobody has judged these answers yet" in refused("farm", alone)
    judged = told("answers", "create", prompts, "--model", policy, "--n", "3", "--judge", "length", "--pattern", "yes").strip()
    answer_all(studio.database, Files(studio.settings.root), judged)
    key = {one["kind"]: one["key"] for one in client.get(f"/api/v1/answers/{judged}").json()["judgements"]}["pattern"]
    made = told("farm", judged).splitlines()[-1]
    with studio.database.reading() as session:
        assert session.get_one(Dataset, made).made_from["judge"] == key


def test_one_source_of_prompts_is_needed(refused):
    assert "Give one of: a file, --run, --dataset." in refused("prompt-sets", "create")


def test_prompt_sets_are_read_renamed_and_deleted(told, refused, questions):
    questions.write_text("What is snow?\nWhat is hail?")
    prompts = told("prompt-sets", "create", str(questions)).strip()
    assert told("prompt-sets", "prompts", prompts, "--start", "1", "--limit", "1") == "Prompt 1\n  user: What is hail?\n"
    assert json.loads(told("prompt-sets", "prompts", prompts, "--json"))[1]["index"] == 1
    told("prompt-sets", "rename", prompts, "Weather")
    assert "Weather" in told("prompt-sets", "list")
    told("prompt-sets", "delete", prompts)
    assert "There is no prompt set" in refused("prompt-sets", "show", prompts)


def test_all_that_is_asked_for_reaches_the_studio(client, told, prompts, policy):
    asked = (
        "--model",
        policy,
        "--top-p",
        "0.9",
        "--seed",
        "7",
        "--temperature",
        "0.5",
        "--prompt-format",
        "plain",
        "--name",
        "Careful",
    )
    answers = told("answers", "create", prompts, *asked, "--pattern", "([0-9]+)", "--judge", "length").strip()
    found = client.get(f"/api/v1/answers/{answers}").json()
    assert found["name"] == "Careful"
    assert found["sampling"].items() >= {"top_p": 0.9, "seed": 7, "temperature": 0.5, "prompt_format": "plain"}.items()
    assert {judge["kind"] for judge in found["judgements"]} == {"length", "pattern"}


def write_outputs(path: Path, said: str) -> Path:
    """Write outputs of a model that is not here, in AlpacaEval's shape."""
    rows = [{"instruction": one, "output": said, "generator": "Far"} for one in QUESTIONS.splitlines()]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_an_endpoint_answers_and_judges_what_is_there(client, told, refused, prompts, tmp_path):
    shown = told("endpoints", "add", "Far", "https://api.example.org/v1", "large")
    endpoint = next(line.split()[1] for line in shown.splitlines() if line.startswith("id"))
    assert "https://api.example.org/v1" in told("endpoints", "show", endpoint)
    mine, other = (
        told("answers", "upload", prompts, str(write_outputs(tmp_path / "outputs.json", said))).strip()
        for said in ("Yes.", "No.")
    )
    asked = told("answers", "create", prompts, "--endpoint", endpoint).strip()
    assert client.get(f"/api/v1/answers/{asked}").json()["model"] == {"source": "endpoint", "endpoint": endpoint}
    assert told("answers", "judge", mine, "--llm", endpoint, "--against", other, "--pattern", "sky").strip() == mine
    judges = {one["kind"]: one["judge"] for one in client.get(f"/api/v1/answers/{mine}").json()["judgements"]}
    assert judges["llm"]["against"] == other
    assert judges["pattern"]["pattern"] == "sky"
    assert "no regular expression" in refused("answers", "judge", mine, "--pattern", "(")


def test_outputs_made_elsewhere_are_uploaded_renamed_and_deleted(told, refused, prompts, tmp_path):
    path = write_outputs(tmp_path / "outputs.json", "Perhaps.")
    answers = told("answers", "upload", prompts, str(path), "--private").strip()
    assert "Far" in told("answers", "show", answers)
    assert "admin (private)" in told("answers", "list")
    assert "nothing to cancel" in refused("answers", "cancel", answers)
    told("answers", "rename", answers, "Those of another place")
    assert "Those of another place" in told("answers", "show", answers)
    told("answers", "delete", answers)
    assert "There are no answers" in refused("answers", "show", answers)


def test_answers_in_the_making_are_cancelled_and_then_deleted(told, refused, prompts, policy):
    answers = told("answers", "create", prompts, "--model", policy, "--seed", "11").strip()
    assert "cancel it" in refused("answers", "delete", answers)
    assert told("answers", "cancel", answers) == "The run is cancelled.\n"
    assert "cancelled" in told("answers", "show", answers)
    told("answers", "delete", answers)
    assert answers not in told("answers", "list")


def test_a_run_that_judges_is_cancelled_and_the_answers_stay(client, studio, told, prompts, policy):
    answers = told("answers", "create", prompts, "--model", policy, "--seed", "12").strip()
    maker = answer_all(studio.database, Files(studio.settings.root), answers)
    assert told("answers", "judge", answers, "--pattern", "rain").strip() == answers
    assert client.get(f"/api/v1/answers/{answers}").json()["run_id"] != maker
    assert told("answers", "cancel", answers) == "The run is cancelled.\n"
    assert client.get(f"/api/v1/answers/{answers}").json()["state"] == "ready"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("create", "prompts_1"), "Give one of: --model, --run, --endpoint."),
        (("create", "prompts_1", "--model", "model_1", "--endpoint", "endpoint_1"), "Give one of: --model, --run, --endpoint."),
        (("create", "prompts_1", "--model", "model_1", "--step", "3"), "give --run too"),
        (("create", "prompts_1", "--model", "model_1", "--against", "answers_1"), "give --llm too"),
        (("judge", "answers_1"), "Say who judges"),
    ],
)
def test_options_that_do_not_go_together_are_sentences(refused, arguments, sentence):
    assert sentence in refused("answers", *arguments)
