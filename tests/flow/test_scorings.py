"""Score once, use often: a scoring over REST, its preview from a warm worker, and runs that ask no model again."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.flow.studio import Studio, running_studio
from tests.timing import Clock
from tests.waiting import wait_until
from tests.worker.workshop import Workshop

SMALL: dict[str, Any] = {
    "tokens": {"max_prompt": 64, "max_response": 48},
    "training": {"batch_size": 4, "steps": 2},
    "evaluation": {"share": 0.1, "num_prompts": 0},
}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("scored")
    with running_studio(folder / "var", model_roots=[folder]) as running:
        yield running


@pytest.fixture(scope="module")
def recipe(studio: Studio) -> dict[str, Any]:
    """Tiny models of this test's own making: random weights, but of real architectures."""
    workshop = Workshop(studio.data_dir.parent)
    rows = []
    for example in workshop.examples(40):
        chosen, rejected = (response["content"] for response in example["responses"])
        rows.append({"prompt": example["prompt"][0]["content"], "chosen": chosen, "rejected": rejected})
    path = studio.data_dir.parent / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "dataset": studio.dataset(path),
        "policy": {"model": studio.model(workshop.policy(), "policy")},
        "reward": {"source": "model", "model": studio.model(workshop.reward(), "reward"), "accept_inverted": True},
        **SMALL,
    }


@pytest.fixture(scope="module")
def scoring(studio: Studio, recipe: dict[str, Any]) -> dict[str, Any]:
    """A scoring that its run has made."""
    asked = studio.post("/api/v1/scorings", recipe, status=202)
    assert asked["state"] in ("queued", "running")
    studio.wait_for_state(asked["run_id"], "succeeded")
    made: dict[str, Any] = studio.get(f"/api/v1/scorings/{asked['id']}")
    return made


def test_a_scoring_holds_all_pairs_of_its_batches(studio: Studio, scoring: dict[str, Any]) -> None:
    assert (scoring["state"], scoring["all_pairs"]) == ("ready", True)
    facts = scoring["facts"]
    assert (facts["num_examples"], facts["num_responses"], facts["batch_size"]) == (36, 72, 4)
    for part in (facts["logprob"], facts["reward"]):
        assert (part["hit"], part["cross"], part["num_scored"]) == (False, True, 9 * 4 * 8)
    folder = studio.data_dir / "scorings"
    assert {facts["index_key"], facts["logprob"]["key"], facts["reward"]["key"]} <= {path.name for path in folder.iterdir()}


def test_its_rewards_are_checked(studio: Studio, scoring: dict[str, Any]) -> None:
    check = studio.get(f"/api/v1/scorings/{scoring['id']}/check")
    assert check["num_pairs"] == 36
    assert sum(check["counts"]) == 72
    assert check["low"] <= check["accuracy"] <= check["high"]


def test_a_warm_worker_previews_a_grid_at_once(studio: Studio, scoring: dict[str, Any], clock: Clock) -> None:
    address = f"/api/v1/scorings/{scoring['id']}/preview?preset=paper&preset=length_normalised&lambda=0.1&lambda=1&batch_size=4"
    first = wait_until(lambda: studio.http.get(address).status_code == 200, what="the first preview")
    assert first
    with clock.within(2):
        answer = studio.get(f"{address}&batch_size=2&target_ess=0.4&weights.mean_one=true")
    assert len(answer["cells"]) == 2 * 2 * 2
    for cell in answer["cells"]:
        assert sum(cell["histogram"]) == 72
        assert len(cell["heaviest"]) == len(cell["lightest"]) == 10
        assert cell["heaviest"][0]["weight"] >= cell["heaviest"][9]["weight"] >= cell["lightest"][0]["weight"]
        assert cell["heaviest"][0]["prompt"]
    assert {one["batch_size"] for one in answer["suggestions"]} == {2, 4}
    refused = studio.http.get(f"{address}&batch_size=8")
    assert refused.status_code == 422
    assert refused.json()["problems"][0]["field"] == "batch_size"


def test_a_run_with_it_asks_no_model_again(studio: Studio, recipe: dict[str, Any], scoring: dict[str, Any]) -> None:
    run_id = studio.launch({**recipe, "weights": {"preset": "paper", "lambda": 2.0}})
    run = studio.wait_for_state(run_id, "succeeded")
    assert run["scoring_id"] == scoring["id"]
    kept = [event["payload"]["scoring"] for event in studio.events(run_id) if event["kind"] == "scoring"]
    assert [(one["logprob"]["hit"], one["reward"]["hit"]) for one in kept] == [(True, True)]
    shown = studio.get(f"/api/v1/scorings/{scoring['id']}")
    assert (shown["num_runs"], shown["facts"]) == (1, scoring["facts"])
    assert studio.post("/api/v1/scorings", recipe, status=202)["state"] == "ready"


def test_scores_that_were_removed_by_hand_are_made_again(studio: Studio, recipe: dict[str, Any], scoring: dict[str, Any]) -> None:
    key = scoring["facts"]["logprob"]["key"]
    for path in (studio.data_dir / "scorings" / key).iterdir():
        path.unlink()
    (studio.data_dir / "scorings" / key).rmdir()
    gone = studio.http.get(f"/api/v1/scorings/{scoring['id']}/preview?lambda=0.7&weights.reward_norm=zscore")
    if gone.status_code != 200:  # a warm worker may still have them in memory
        assert (gone.status_code, studio.get(f"/api/v1/scorings/{scoring['id']}")["state"]) == (409, "failed")
        again = studio.post("/api/v1/scorings", recipe, status=202)
        studio.wait_for_state(again["run_id"], "succeeded")
        assert (studio.data_dir / "scorings" / key).is_dir()


def test_a_scoring_is_deleted_with_its_files_once_nothing_runs(studio: Studio, scoring: dict[str, Any]) -> None:
    assert studio.http.delete(f"/api/v1/scorings/{scoring['id']}?anyway=true").status_code == 204
    assert [path.name for path in (studio.data_dir / "scorings").iterdir() if path.is_dir()] == []
    runs = studio.get("/api/v1/runs")["items"]
    assert {run["scoring_id"] for run in runs} == {None}
