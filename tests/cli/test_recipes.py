"""`varstudio recipes`, against the web within this process."""

import json

import pytest
import yaml

from app.commands.answering.endpoints import MOST_KEY_BYTES, read_key
from app.commands.client import Client, CommandFailed
from app.commands.recipes import reward_of
from app.settings import Settings


def test_a_run_s_recipe_is_saved_listed_exported_and_imported_again(studio, client, told, tmp_path):
    run_id = studio.launch(name="Went well")
    kept = told("recipes", "save", run_id, "--name", "Kept", "--private").strip()
    assert "admin (private)" in told("recipes", "list", "--mine")
    assert told("recipes", "share", kept).strip() == "Kept is shared with all members."
    path = tmp_path / "half.json"
    told("recipes", "export", kept, "--to", str(path))
    recipe = json.loads(path.read_text())
    assert json.loads(told("recipes", "export", run_id)) == {**recipe, "name": "Went well"}
    again = told("recipes", "import", str(path)).strip()
    assert client.get(f"/api/v1/recipe-templates/{again}").json()["recipe"] == recipe
    assert client.get(f"/api/v1/recipe-templates/{again}").json()["name"] == "half"
    told("recipes", "rename", again, "Half")
    assert "Half" in told("recipes", "list")
    told("recipes", "delete", again)
    assert client.get(f"/api/v1/recipe-templates/{again}").status_code == 404


def test_reward_takes_a_source_a_model_or_several():
    assert reward_of(None) == {"source": None}
    assert reward_of("rating") == {"source": "rating"}
    assert reward_of("a, b,c") == {"source": "model", "model": "a", "second": "b", "third": "c"}
    with pytest.raises(CommandFailed, match="names 4 reward models"):
        reward_of("a,b,c,d")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reward": {"caution": float("nan")}}, "reward.caution must be a finite number."),
        ({"weights": {"lambda": float("inf")}}, "weights.lambda must be a finite number."),
        ({"keep": {"patience": 9}, "training": {"steps": 20}}, "keep.patience: It can never stop this run"),
        ({"draws": {"num_draws": 1}}, "draws.num_draws: Z(x) as the mean over draws takes two of them or more"),
    ],
)
def test_a_refused_recipe_names_the_field_in_the_terminal(studio, refused, tmp_path, settings, said):
    recipe = {**studio.ingredients(), **settings}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert refused("runs", "launch", str(tmp_path / "recipe.yaml")).startswith(said)


def test_a_temperature_that_is_no_number_is_refused_as_its_option(studio, refused, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(studio.ingredients()))
    assert refused("runs", "launch", str(tmp_path / "recipe.json"), "--lambda", "nan") == "--lambda must be a finite number.\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: 2026-01-01", "name of {path} is read as a date: put it in quotes where text is meant."),
        ("tags: [a, !!binary aGk=]", "tags.1 of {path} is read as a bytes: put it in quotes where text is meant."),
        ("name: 2026-13-45", "{path} can't be read as YAML: it holds a number, a date or a tag that has no value."),
        ("seed: " + "9" * 5000, "{path} can't be read as YAML: it holds a number, a date or a tag that has no value."),
        ("seed: !!int ''", "{path} can't be read as YAML: it holds a number, a date or a tag that has no value."),
        ("seed: !!bool maybe", "{path} can't be read as YAML: it holds a number, a date or a tag that has no value."),
        ("name: !!timestamp soon", "{path} can't be read as YAML: it holds a number, a date or a tag that has no value."),
        ("weights: [1]", "weights must be an object with fields, not [1]."),
    ],
)
def test_a_recipe_that_is_no_plain_data_is_refused_with_what_it_holds(refused, tmp_path, text, said):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert refused("runs", "launch", str(path), "--lambda", "1").replace("\n", " ").strip() == said.format(path=path)


@pytest.mark.parametrize("to", [".", "folder"])
def test_a_recipe_is_not_written_over_a_folder(studio, refused, tmp_path, monkeypatch, to):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert refused("recipes", "export", studio.launch(), "--to", to) == f"Is a directory: {to}\n"
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


@pytest.mark.parametrize(("key", "token"), [("run_\n", "t"), ("run_\udc80", "t"), ("run_1", "tökén")])
def test_what_no_address_or_token_has_is_refused_before_it_is_sent(key, token):
    client = Client(Settings(_env_file=None, server_url="http://127.0.0.1:9", token=token))
    with pytest.raises(CommandFailed, match="holds characters that no address or token has"):
        client.get(f"/runs/{key}")


@pytest.mark.parametrize("content", [b"k" * (MOST_KEY_BYTES + 1), b"\xff\xfe", "schlüssel".encode()])
def test_a_file_that_holds_no_key_is_refused(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(CommandFailed, match="holds no key"):
        read_key(False, tmp_path / "key")
    (tmp_path / "key").write_text("sk-key\n")
    assert read_key(False, tmp_path / "key") == "sk-key"
