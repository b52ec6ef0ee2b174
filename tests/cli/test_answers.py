"""`varstudio prompt-sets`, `answers` and `farm`, against the web within this process."""

import pytest

from app.cli import run
from app.store.files.files import Files
from tests.answered import QUESTIONS, answer_all
from tests.cli.test_comparisons import Near
from tests.web.conftest import client as client
from tests.web.conftest import studio as studio


@pytest.fixture
def terminal(client, monkeypatch):
    for module in ("answers", "prompt_sets"):
        monkeypatch.setattr(f"app.commands.answering.{module}.Client", lambda _settings: Near(client))
    monkeypatch.setattr("app.commands.client.Client", lambda _settings: Near(client))


def test_from_a_list_of_prompts_to_a_data_set(studio, terminal, capsys, tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text(QUESTIONS)

    def told(*arguments: str) -> str:
        assert run(list(arguments)) == 0
        return capsys.readouterr().out

    prompts = told("prompt-sets", "create", str(path), "--private").strip()
    assert "admin (private)" in told("prompt-sets", "list", "--mine")
    assert "shared with all members" in told("prompt-sets", "share", prompts)
    assert "questions.txt" in told("prompt-sets", "list")
    assert "references" in told("prompt-sets", "show", prompts)
    policy = studio.ingredients()["policy"]["model"]
    answers = told("answers", "create", prompts, "--model", policy, "--n", "2", "--judge", "length", "--private").strip()
    assert "admin (private)" in told("answers", "list", "--mine")
    assert "shared with all members" in told("answers", "share", answers)
    answer_all(studio.database, Files(studio.settings.root), answers)
    assert "ready" in told("answers", "list", "--prompt-set", prompts)
    assert "Length: 1.50 ± 0.500" in told("answers", "show", answers)
    assert told("farm", answers, "--judge", "Length").splitlines()[-1].startswith("data_")


def test_one_source_of_prompts_is_needed(terminal, capsys):
    assert run(["prompt-sets", "create"]) == 1
    assert "Give one of: a file, --run, --dataset." in capsys.readouterr().err
