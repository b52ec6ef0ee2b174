"""Scorings over REST: asked for, listed, previewed by a worker, checked, deleted."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import delete

from app.domain.preview.weights import PreviewResult
from app.services import previews
from app.store.files.files import Files
from app.store.tables import Preview, Run, Scoring
from app.web.api import scorings
from app.web.preview_requests import pause_after
from tests.scored import make_check, make_facts, make_part

RESULT = PreviewResult(cells=[], suggestions=[], check=make_check(), findings=[], num_batches=2, num_responses=20, seconds=0.1)


def ask(studio, client, **changes) -> str:
    response = client.post("/api/v1/scorings", json={**studio.ingredients(), **changes})
    assert response.status_code == 202, response.text
    return response.json()["id"]


def make_ready(studio, client, **facts) -> str:
    """A scoring whose facts are known, as if a worker had made it."""
    scoring_id = ask(studio, client, training={"batch_size": 8, "seed": time.monotonic_ns() % 2**31})
    with studio.database.writing() as session:
        session.get(Scoring, scoring_id).facts = make_facts(**facts).model_dump(mode="json")
    return scoring_id


@contextmanager
def worker(studio, error=None) -> Iterator[list[dict]]:
    """Answers every preview; the list holds the jobs."""
    jobs, over = [], threading.Event()

    def work() -> None:
        while not over.is_set():
            with studio.database.writing() as session:
                claim = previews.begin(session, Files(studio.settings.root), "test", 30)
                if claim is not None:
                    jobs.append(claim.job.request)
                    if error:
                        previews.fail(session, claim.preview_id, "test", error)
                    else:
                        previews.finish(session, claim.preview_id, "test", RESULT)
            time.sleep(0.02)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield jobs
    finally:
        over.set()
        thread.join()


def test_a_scoring_is_asked_for_without_weights_and_once(studio, client):
    recipe = {key: value for key, value in studio.ingredients().items() if key != "weights"}
    first = client.post("/api/v1/scorings", json=recipe)
    assert first.status_code == 202
    assert first.headers["location"] == f"/api/v1/scorings/{first.json()['id']}"
    assert (first.json()["state"], first.json()["num_runs"], first.json()["size_bytes"]) == ("queued", 0, None)
    again = client.post("/api/v1/scorings", json={**recipe, "weights": {"preset": "paper", "lambda": 2}})
    assert again.json() == {**first.json(), "used_at": again.json()["used_at"]}


def test_its_run_is_listed_among_scoring_runs_only(studio, client):
    scoring_id = ask(studio, client)
    run_id = client.get(f"/api/v1/scorings/{scoring_id}").json()["run_id"]
    assert run_id not in [run["id"] for run in client.get("/api/v1/runs").json()["items"]]
    listed = client.get("/api/v1/runs?kind=scoring").json()["items"]
    assert (run_id, "scoring", scoring_id) in [(run["id"], run["kind"], run["scoring_id"]) for run in listed]


def test_what_is_in_a_scoring_is_told_with_who_uses_it(studio, client):
    reward = make_part("reward-bbbb", miss_reason="The reward model's files differ.", backend="", size_bytes=80)
    scoring_id = make_ready(studio, client, reward=reward)
    with studio.database.reading() as session:
        seed = session.get(Scoring, scoring_id).settings["training"]["seed"]
    run_id = studio.launch(training={"batch_size": 8, "seed": seed})
    shown = client.get(f"/api/v1/scorings/{scoring_id}").json()
    assert (shown["state"], shown["all_pairs"], shown["num_pairs"], shown["size_bytes"]) == ("ready", True, 1280, 5200)
    assert shown["facts"]["reward"]["miss_reason"] == "The reward model's files differ."
    assert [(run["id"], run["state"]) for run in shown["runs"]] == [(run_id, "queued")]
    assert shown["settings"]["training"] == {"batch_size": 8, "seed": seed}


def test_scorings_come_newest_first_and_of_one_data_set(studio, client):
    made = [make_ready(studio, client) for _ in range(3)]
    page = client.get("/api/v1/scorings?limit=2&dataset=data_pairs").json()
    assert [one["id"] for one in page["items"]] == made[:0:-1]
    assert client.get(f"/api/v1/scorings?limit=1&after={page['next']}").json()["items"][0]["id"] == made[0]
    assert client.get("/api/v1/scorings?dataset=data_none").json() == {"items": [], "next": None}


def test_the_rewards_are_checked_in_numbers_and_words(studio, client):
    check = make_check(accuracy=0.2, low=0.06, high=0.45, inverted=True, flat=True, chosen_mean=-0.01, rejected_mean=0.01)
    shown = client.get(f"/api/v1/scorings/{make_ready(studio, client, check=check)}/check").json()
    assert (shown["accuracy"], shown["length_accuracy"], shown["counts"]) == (0.2, 0.6, [3, 5, 8, 4])
    assert [finding["name"] for finding in shown["findings"]] == ["inverted_rewards", "flat_rewards"]
    assert "only 20 % of 9 pairs" in shown["findings"][0]["evidence"]
    assert "-0.02 on average" in shown["findings"][1]["evidence"]
    waiting = client.get(f"/api/v1/scorings/{ask(studio, client)}/check")
    assert waiting.status_code == 409
    assert "isn't ready" in waiting.json()["detail"]


def test_a_preview_is_waited_for_and_then_kept(studio, client, clock):
    scoring_id = make_ready(studio, client)
    query = "preset=paper&preset=within_prompt&lambda=0.1&lambda=0.3&batch_size=8&batch_size=16&target_ess=0.4"
    more = "label_flip_share=0.2&reward_std=0.5&noise_seed=3&weights.logprob_norm=mean&weights.mean_one=false"
    address = f"/api/v1/scorings/{scoring_id}/preview?{query}&{more}"
    with worker(studio) as jobs, clock.within(3):
        answer = client.get(address)
    assert answer.status_code == 200, answer.text
    assert answer.json() == RESULT.model_dump(mode="json", by_alias=True)
    assert jobs == [
        {
            "presets": ["paper", "within_prompt"], "lambda": [0.1, 0.3], "batch_sizes": [8, 16], "target_ess": 0.4,
            "overrides": {"logprob_norm": "mean", "mean_one": "off"}, "label_flip_share": 0.2, "reward_std": 0.5, "noise_seed": 3,
            "length_control": False, "per_prompt": False,
        }
    ]  # fmt: skip
    assert client.get(address).json() == answer.json()  # nobody works any more


def test_a_token_that_may_only_read_may_preview(studio, client):
    reader = studio.client(studio.make_token(scope="read"))
    with worker(studio):
        assert reader.get(f"/api/v1/scorings/{make_ready(studio, client)}/preview").status_code == 200


def test_without_a_worker_one_is_told_to_come_back(studio, client, monkeypatch):
    monkeypatch.setattr("app.web.preview_requests.WAIT_SECONDS", 0.2)
    address = f"/api/v1/scorings/{make_ready(studio, client)}/preview"
    answer = client.get(address)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["detail"].startswith("No worker is running")


@pytest.mark.parametrize(
    ("query", "field", "sentence"),
    [
        ("lambda=0", "lambda", "lambda must be greater than 0, not 0."),
        ("lambda=0.1&lambda=-2", "lambda", "lambda must be greater than 0, not -2."),
        ("lambda=nan", "lambda", "lambda must be a finite number."),
        ("batch_size=0", "batch_size", "batch_size must be at least 1, not 0."),
        ("preset=none", "preset.0", "preset.0 must be"),
        ("target_ess=1", "target_ess", "target_ess must be less than 1, not 1."),
        ("weights.colour=red", "weights.colour", "weights.colour is nothing that a preview can change"),
        ("weights.weight_form=odd", "weights.weight_form", "weights.weight_form must be"),
        ("presets=paper", "presets", "A preview has no parameter 'presets': did you mean preset?"),
        ("colour=red", "colour", "A preview has no parameter 'colour': there are preset, lambda, batch_size,"),
        ("label_flip_share=0.9", "label_flip_share", "label_flip_share must be at most 0.5"),
    ],
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_named(studio, client, query, field, sentence):
    answer = client.get(f"/api/v1/scorings/{make_ready(studio, client)}/preview?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(sentence)
    assert answer.json()["problems"][0]["field"] == field


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("lambda=0", "λ grid must be greater than 0, not 0."),
        ("batch_size=0", "Batch sizes must be at least 1, not 0."),
        ("target_ess=1", "Target effective sample size must be less than 1, not 1."),
        ("label_flip_share=0.9", "Share of swapped labels must be at most 0.5, not 0.9."),
        ("reward_std=-1", "Noise on the rewards must be at least 0, not -1."),
        ("noise_seed=-1", "Seed of the noise must be at least 0, not -1."),
    ],
)
def test_the_page_names_the_labels_of_its_form(studio, client, query, sentence):
    scoring_id = make_ready(studio, client)
    browser = studio.browser()
    answer = browser.get(f"/scorings/{scoring_id}/preview?{query}")
    assert (answer.status_code, sentence in answer.text) == (422, True), answer.text
    assert f">{sentence.partition(' must')[0]}</label>" in browser.get(f"/scorings/{scoring_id}").text


def test_what_the_worker_says_is_wrong_is_told(studio, client):
    problems = [{"field": "presets", "message": "Not with paper."}, {"field": "overrides.responses", "message": "Not so."}]
    scoring_id = make_ready(studio, client)
    with worker(studio, {"code": "unavailable", "detail": "The previewing process ended.", "problems": []}):
        lost = client.get(f"/api/v1/scorings/{scoring_id}/preview")
    assert (lost.status_code, lost.json()["detail"]) == (503, "The previewing process ended.")
    with worker(studio, {"code": "invalid-input", "detail": "This scoring has own pairs only.", "problems": problems}):
        refused = client.get(f"/api/v1/scorings/{scoring_id}/preview")  # what was lost is asked for anew
    assert (refused.status_code, refused.json()["detail"]) == (422, "This scoring has own pairs only.")
    assert [problem["field"] for problem in refused.json()["problems"]] == ["preset", "weights.responses"]


def test_scores_that_are_gone_from_the_disk_can_be_asked_for_again(studio, client):
    scoring_id = make_ready(studio, client)
    run_id = client.get(f"/api/v1/scorings/{scoring_id}").json()["run_id"]
    client.post(f"/api/v1/runs/{run_id}/cancel")
    with worker(studio, {"code": "not-found", "detail": "The scores of this scoring are gone.", "problems": []}):
        gone = client.get(f"/api/v1/scorings/{scoring_id}/preview")
    assert (gone.status_code, gone.json()["detail"]) == (409, "The scores of this scoring are gone. Ask for the scoring again.")
    shown = client.get(f"/api/v1/scorings/{scoring_id}").json()
    assert (shown["state"], shown["facts"]) == ("cancelled", None)
    again = client.post("/api/v1/scorings", json={**studio.ingredients(), "training": shown["settings"]["training"]}).json()
    assert (again["id"], again["state"]) == (scoring_id, "queued")


def test_who_waits_long_for_a_preview_looks_seldom():
    assert [pause_after(seconds) for seconds in (0, 0.4, 2, 5, 20)] == [0.05, 0.05, 0.2, 0.5, 0.5]


@pytest.mark.long
def test_waiting_for_previews_holds_no_connection_and_no_thread(studio, client, monkeypatch, clock):
    """Far more readers than there are threads (40) wait for one worker that doesn't come; pages go on meanwhile."""
    monkeypatch.setattr("app.web.preview_requests.WAIT_SECONDS", 2.0)
    scoring_id = make_ready(studio, client)
    with studio.database.writing() as session:  # a user may wait for a hundred, those that other tests left included
        session.execute(delete(Preview))
    answers = []

    def wait(share: int) -> None:
        answers.append(studio.client().get(f"/api/v1/scorings/{scoring_id}/preview?target_ess=0.{share:03}1").status_code)

    threads = [threading.Thread(target=wait, args=(share,)) for share in range(60)]
    for thread in threads:
        thread.start()
    with clock.within(2):
        assert client.get("/api/v1/scorings").status_code == 200
    for thread in threads:
        thread.join()
    assert answers == [503] * 60


def test_a_scoring_is_deleted_only_when_nothing_uses_it(studio, client):
    scoring_id = ask(studio, client, training={"seed": 99})
    refused = client.delete(f"/api/v1/scorings/{scoring_id}")
    assert refused.status_code == 409
    run_id = client.get(f"/api/v1/scorings/{scoring_id}").json()["run_id"]
    assert run_id in refused.json()["detail"]
    client.post(f"/api/v1/runs/{run_id}/cancel")
    assert client.get(f"/api/v1/scorings/{scoring_id}").json()["state"] == "cancelled"
    assert client.delete(f"/api/v1/scorings/{scoring_id}").status_code == 204
    assert client.get(f"/api/v1/scorings/{scoring_id}").status_code == 404


def test_a_scoring_that_ended_runs_used_is_deleted_when_asked_to_anyway(studio, client):
    scoring_id, user_id = ask(studio, client, training={"seed": 101}), studio.launch(training={"seed": 102})
    for run_id in (user_id, client.get(f"/api/v1/scorings/{scoring_id}").json()["run_id"]):
        client.post(f"/api/v1/runs/{run_id}/cancel")
    with studio.database.writing() as session:
        session.get(Run, user_id).scoring_id = scoring_id
    refused = client.delete(f"/api/v1/scorings/{scoring_id}")
    assert refused.status_code == 409
    assert "was used by 1 run" in refused.json()["detail"]
    assert client.delete(f"/api/v1/scorings/{scoring_id}?anyway=true").status_code == 204
    assert client.get(f"/api/v1/runs/{user_id}").json()["scoring_id"] is None


def test_a_deleted_scoring_takes_its_previews_along(studio, client):
    scoring_id = make_ready(studio, client)
    with worker(studio):
        client.get(f"/api/v1/scorings/{scoring_id}/preview")
    run_id = client.get(f"/api/v1/scorings/{scoring_id}").json()["run_id"]
    client.post(f"/api/v1/runs/{run_id}/cancel")
    assert client.delete(f"/api/v1/scorings/{scoring_id}").status_code == 204
    with studio.database.reading() as session:
        assert session.query(Preview).filter_by(scoring_id=scoring_id).count() == 0


def test_nobody_sees_anothers_private_scoring(studio, client, eve):
    scoring_id = make_ready(studio, client)
    assert client.patch(f"/api/v1/scorings/{scoring_id}", json={"private": True}).status_code == 200
    for path in ("", "/check", "/preview"):
        assert eve.get(f"/api/v1/scorings/{scoring_id}{path}").status_code == 404
    assert eve.delete(f"/api/v1/scorings/{scoring_id}").status_code == 404
    assert scoring_id not in [scoring["id"] for scoring in eve.get("/api/v1/scorings", params={"limit": 100}).json()["items"]]


@pytest.mark.parametrize("example", scorings.EXAMPLES.values(), ids=scorings.EXAMPLES)
def test_the_requests_of_the_document_are_requests(example):
    assert scorings.ScoringRecipe.model_validate(example["value"])
