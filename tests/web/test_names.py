"""Renaming over REST and from the pages: by owners only, and nothing but the name changes."""

import pytest

from tests.web.conftest import PAIRS


@pytest.fixture
def things(studio, client) -> dict[str, str]:
    """One of each noun that can be made without a worker."""
    recipe = studio.ingredients()
    sweep = client.post("/api/v1/sweeps", json={"recipe": recipe, "lambda": [0.3, 0.6]}).json()["id"]
    scoring = client.post("/api/v1/scorings", json=recipe).json()["id"]
    own = {"runs": studio.launch(), "datasets": studio.upload()["id"], "models": "model_policy"}
    return {**own, "sweeps": sweep, "scorings": scoring}


def test_everything_is_renamed_by_its_owner_alone(studio, client, eve, things):
    browser = studio.browser()
    for noun, key in things.items():
        path = f"/api/v1/{noun}/{key}"
        assert client.patch(path, json={"name": f"New {noun}"}).json()["name"] == f"New {noun}", noun
        assert eve.patch(path, json={"name": "Eve's"}).status_code == 403
        assert client.patch(path, json={"name": ""}).status_code == 422
        assert client.patch(path, json={"name": "a\nb"}).status_code == 422
        assert "1 to" in browser.post(f"/{noun}/{key}/rename", data={"name": " "}, headers={"hx-request": "true"}).text
        assert browser.post(f"/{noun}/{key}/rename", data={"name": f"Page's {noun}"}).headers["location"] == f"/{noun}/{key}"
        assert f"Page&#39;s {noun}</h1>" in browser.get(f"/{noun}/{key}").text
    assert browser.post("/workers/box/rename", data={"name": "x"}).status_code == 404


def test_two_uploads_of_one_file_are_told_apart(studio):
    first, second = (studio.upload(PAIRS, "twice.jsonl")["name"] for _ in range(2))
    assert (first, second) == ("twice.jsonl", "twice.jsonl (2)")


def test_a_model_that_is_registered_twice_is_told_apart(client):
    asked = {"kind": "policy", "source": "hub", "name": "https://huggingface.co/HuggingFaceTB/SmolLM2-135M/tree/main"}
    made = [client.post("/api/v1/models", json=asked).json() for _ in range(2)]
    assert [model["name"] for model in made] == ["HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M (2)"]
    assert made[0]["path"] == made[1]["path"] == "HuggingFaceTB/SmolLM2-135M"
