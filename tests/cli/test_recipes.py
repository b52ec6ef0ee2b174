"""`varstudio recipes`, against the web within this process."""

import json


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
