"""`varstudio compare` and `vote-link`, against the web within this process."""

import json

import pytest

from app.cli import run
from app.commands.client import Client
from tests.compared import Planted, plant_answers, plant_prompts
from tests.web.conftest import URL
from tests.web.conftest import client as client
from tests.web.conftest import studio as studio
from tests.web.test_comparisons import owner_of


class Near(Client):
    """The terminal's client, whose requests stay within the process."""

    def __init__(self, client):
        self.client = client

    def send(self, method, path, **options):
        response = self.client.request(method, f"/api/v1{path}", **options)
        response.raise_for_status()
        return response


@pytest.fixture
def terminal(client, monkeypatch):
    for module in ("comparisons", "client"):
        monkeypatch.setattr(f"app.commands.{module}.Client", lambda _settings: Near(client))


def test_compare_tells_the_sentence_and_vote_link_prints_an_address(studio, terminal, capsys):
    with studio.database.writing() as session:
        prompts = plant_prompts(session, studio.app.state.files, owner_of(studio), 40)
        models = (Planted("Kind", 1.0), Planted("Curt"))
        ids = [plant_answers(session, studio.app.state.files, prompts, model).id for model in models]
    assert run(["compare", *ids]) == 0
    told = capsys.readouterr().out
    comparison = told.splitlines()[0]
    assert comparison.startswith("comparison_")
    assert "Kind beats Curt on " in told
    assert run(["compare", comparison, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "ready"
    assert run(["vote-link", comparison, "--days", "3"]) == 0
    assert capsys.readouterr().out.startswith(f"{URL}/vote/")


def test_compare_says_when_nobody_makes_the_answers(studio, terminal, capsys):
    with studio.database.writing() as session:
        prompts = plant_prompts(session, studio.app.state.files, owner_of(studio), 4)
        ids = [
            plant_answers(session, studio.app.state.files, prompts, Planted(name), is_ready=name == "A").id for name in ("A", "B")
        ]
    assert run(["compare", *ids]) == 1
    assert "resume their run" in capsys.readouterr().err


def test_a_comparison_is_kept_private_shared_again_and_deleted(studio, terminal, client, capsys):
    with studio.database.writing() as session:
        prompts = plant_prompts(session, studio.app.state.files, owner_of(studio), 4)
        ids = [plant_answers(session, studio.app.state.files, prompts, Planted(name)).id for name in ("A", "B")]
    assert run(["compare", *ids, "--name", "Mine alone", "--private"]) == 0
    comparison = capsys.readouterr().out.splitlines()[0]
    assert client.get(f"/api/v1/comparisons/{comparison}").json()["private"]
    assert run(["comparisons", "list", "--mine"]) == 0
    assert "admin (private)" in capsys.readouterr().out
    assert run(["comparisons", "share", comparison]) == 0
    assert capsys.readouterr().out == "Mine alone is shared with all members.\n"
    assert run(["comparisons", "private", comparison]) == 0
    assert "only admin and admins see it" in capsys.readouterr().out
    assert run(["comparisons", "delete", comparison]) == 0
    assert client.get(f"/api/v1/comparisons/{comparison}").status_code == 404
