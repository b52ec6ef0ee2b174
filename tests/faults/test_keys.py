"""A18: one Idempotency-Key means one thing made and one answer, however many requests carry it at once."""

import threading
from typing import Any

import httpx
import pytest

from tests.faults.conftest import SERVERS_IN_SOAK
from tests.faults.house import House

NUM_REQUESTS = 50


def send_together(house: House, path: str, body: Any, key: str) -> list[httpx.Response]:
    """The answers to the same request, sent by fifty threads at once over connections of their own."""
    answers: list[httpx.Response] = []
    barrier = threading.Barrier(NUM_REQUESTS)

    def send() -> None:
        with httpx.Client(base_url=house.url, headers=house.headers, timeout=60, verify=False) as client:
            client.get("/healthz")
            barrier.wait()
            answers.append(client.post(path, json=body, headers={"idempotency-key": key}))

    threads = [threading.Thread(target=send) for _ in range(NUM_REQUESTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == NUM_REQUESTS
    return answers


def ids(house: House, path: str) -> list[str]:
    return [item["id"] for item in house.http.get(f"{path}?limit=200").json()["items"]]


def test_fifty_requests_with_one_key_make_one_and_get_one_answer(house: House) -> None:
    """Runs, clones of a run, sweeps; for each, another body with the same key is refused. A scoring needs no key."""
    house.start_web()
    original = house.launch()
    renamed = {**house.recipe, "name": "another"}
    sweep = {"recipe": house.recipe, "lambdas": [0.25, 0.5, 1.0]}
    cases = [
        ("/api/v1/runs", house.recipe, renamed, "/api/v1/runs", 1),
        (f"/api/v1/runs/{original}/clone", None, None, "/api/v1/runs", 1),
        ("/api/v1/sweeps", sweep, {**sweep, "lambdas": [0.75]}, "/api/v1/sweeps", 1),
    ]
    for path, body, other, listing, num_made in cases:
        before = ids(house, listing)
        answers = send_together(house, path, body, f"key of {path}")
        assert {answer.status_code for answer in answers} == {202}, [answer.text for answer in answers][:3]
        assert len({answer.content for answer in answers}) == 1
        assert len({answer.headers["location"] for answer in answers}) == 1
        made = set(ids(house, listing)) - set(before)
        assert made == {answers[0].json()["id"]}
        assert len(made) == num_made
        if other is not None:
            refused = house.http.post(path, json=other, headers={"idempotency-key": f"key of {path}"})
            assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
            assert refused.json()["problems"][0]["field"] == "Idempotency-Key"
            assert set(ids(house, listing)) - set(before) == made


@pytest.mark.parametrize("house", SERVERS_IN_SOAK, indirect=True)
def test_fifty_requests_for_one_scoring_make_one(house: House) -> None:
    house.start_web()
    recipe = {name: part for name, part in house.recipe.items() if name in ("dataset", "policy", "training")}
    answers = send_together(house, "/api/v1/scorings", recipe, "unused")
    assert {answer.status_code for answer in answers} == {202}, [answer.text for answer in answers][:3]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert ids(house, "/api/v1/scorings") == [answers[0].json()["id"]]


@pytest.mark.parametrize("moved", ["begun", "cancelled", "resumed"])
def test_a_key_gets_its_first_answer_again_whatever_became_of_the_run(embedded: House, moved: str) -> None:
    embedded.start_web()
    first = embedded.http.post("/api/v1/runs", json=embedded.recipe, headers={"idempotency-key": "once"})
    run_id = first.json()["id"]
    if moved == "begun":
        embedded.start_worker()
        embedded.wait_for_end(run_id)
    else:
        assert embedded.http.post(f"/api/v1/runs/{run_id}/cancel").status_code == 202
    if moved == "resumed":
        assert embedded.http.post(f"/api/v1/runs/{run_id}/resume").status_code == 202
    again = embedded.http.post("/api/v1/runs", json=embedded.recipe, headers={"idempotency-key": "once"})
    assert (again.status_code, again.content) == (202, first.content)
