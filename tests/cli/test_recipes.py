"""`varstudio recipes`, against the web within this process."""

import json

import pytest

from app.cli import run
from tests.cli.test_comparisons import Near
from tests.web.conftest import client as client
from tests.web.conftest import studio as studio


@pytest.fixture
def told(client, monkeypatch, capsys):
    """What a command line prints."""
    for module in ("recipes", "client"):
        monkeypatch.setattr(f"app.commands.{module}.Client", lambda _settings: Near(client))

    def tell(*arguments: str) -> str:
        assert run(list(arguments)) == 0
        return capsys.readouterr().out.strip()

    return tell


def test_a_run_s_recipe_is_saved_listed_exported_and_imported_again(studio, client, told, tmp_path):
    run_id = studio.launch(name="Went well")
    kept = told("recipes", "save", run_id, "--name", "Kept", "--private")
    assert "admin (private)" in told("recipes", "list", "--mine")
    assert told("recipes", "share", kept) == "Kept is shared with all members."
    path = tmp_path / "half.json"
    told("recipes", "export", kept, "--to", str(path))
    recipe = json.loads(path.read_text())
    assert json.loads(told("recipes", "export", run_id)) == {**recipe, "name": "Went well"}
    again = told("recipes", "import", str(path))
    assert client.get(f"/api/v1/recipe-templates/{again}").json()["recipe"] == recipe
    assert client.get(f"/api/v1/recipe-templates/{again}").json()["name"] == "half"
    told("recipes", "rename", again, "Half")
    assert "Half" in told("recipes", "list")
    told("recipes", "delete", again)
    assert client.get(f"/api/v1/recipe-templates/{again}").status_code == 404
