"""Runs over REST: launched once, steered, and read back in every way they are recorded."""

import html
import io
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from app.domain.events import (
    ArtifactWritten,
    Change,
    ChatMessage,
    EvaluationLogged,
    FinalLogged,
    FindingRaised,
    LogWritten,
    OutcomeReached,
    SampleDrawn,
    SpoolLine,
    StageStarted,
    StepLogged,
)
from app.domain.metrics import WEIGHT_EDGES
from app.domain.run import Outcome, Stage
from app.services import attempts, recordings

RUNS = "/api/v1/runs"
AT = "2026-01-31T12:00:00.000000Z"


def record(studio, events, outcome=None) -> str:
    """A run as a worker would have left it: claimed, with these events, and ended when there is an outcome."""
    run_id = studio.launch()
    with studio.database.writing() as session:
        for other in studio.client().get(RUNS, params={"state": "queued"}).json()["items"]:
            if other["id"] != run_id:
                session.execute(attempts.update(attempts.Run).where(attempts.Run.id == other["id"]).values(state="cancelled"))
        claim = attempts.begin(session, "worker-1", 60)
        assert claim is not None
        assert claim.run_id == run_id
    lines = [
        SpoolLine(n=n, at=AT, kind=event.model_dump()["kind"], payload=event.model_dump(mode="json", exclude={"kind"}))
        for n, event in enumerate(events, 1)
    ]
    with studio.database.writing() as session:
        recordings.record(session, run_id, claim.token, lines)
    if outcome is not None:
        with studio.database.writing() as session:
            attempts.finish(session, run_id, claim.token, outcome, "the end of the log")
    return run_id


def step(number: int, loss: float = 1.0) -> StepLogged:
    histogram = [0] * (len(WEIGHT_EDGES) + 1)
    return StepLogged(step=number, num_steps=9, epoch=0.1, batch=number + 100, metrics={"loss": loss}, histogram=histogram)


def sample(number: int, index: int) -> SampleDrawn:
    prompt = [ChatMessage(role="user", content="Hello?")]
    return SampleDrawn(step=number, index=index, example_id=index, prompt=prompt, reference="Hm.", policy="Hello!")


def test_final_figures_are_series_and_stand_on_the_page(studio, client):
    metrics = {"test/num_prompts": 64.0, "test/kl": 2.5, "test/kl_low": 2.0, "test/kl_high": 3.25}
    run_id = record(studio, [EvaluationLogged(step=9, metrics={"eval/kl": 2.0}), FinalLogged(step=9, metrics=metrics)])
    series = client.get(f"{RUNS}/{run_id}/metrics", params={"keys": "test/kl_high"}).json()
    assert series["test/kl_high"]["points"] == [[9, 3.25]]
    page = client.get(f"/runs/{run_id}").text
    assert "Of 64 test prompts" in page
    assert "2.00 to 3.25" in page
    older = client.get(f"/runs/{record(studio, [EvaluationLogged(step=9, metrics={'eval/kl': 2.0})])}").text
    assert '<section class="stack jump-to" id="final" aria-labelledby="final-title" hidden>' in older


SUCCEEDED = OutcomeReached(outcome=Outcome.SUCCEEDED, summary={"loss": 0.5})


def test_a_launched_run_is_queued_and_says_where_it_is(studio, client):
    response = client.post(RUNS, json={**studio.ingredients(), "name": "First"})
    run = response.json()
    assert response.status_code == 202
    assert (run["name"], run["state"]) == ("First", "queued")
    detail = client.get(response.headers["location"]).json()
    assert detail["recipe"]["weights"]["lambda"] == 0.5
    assert detail["recipe"]["weights"]["logprob_norm"] == "mean"
    assert detail["attempts"] == []


def test_a_launch_answers_without_reading_its_run_again(studio, client):
    sent = []
    event.listen(studio.database.engine, "before_cursor_execute", lambda *call: sent.append(call[2]))
    run = client.post(RUNS, json=studio.ingredients()).json()
    assert run["owner"] == client.get(f"{RUNS}/{run['id']}").json()["owner"]
    inserted = next(place for place, statement in enumerate(sent) if statement.startswith("INSERT INTO runs"))
    assert sent[inserted + 1].startswith("INSERT INTO journal")
    assert sent[inserted + 2].startswith(("PRAGMA", "BEGIN")), sent  # what is asked for next


def test_a_resolved_recipe_can_be_launched_as_it_is(client, studio):
    recipe = client.get(f"{RUNS}/{studio.launch()}").json()["recipe"]
    assert client.post(RUNS, json=recipe).status_code == 202


def test_one_key_launches_one_run_however_often_it_is_sent(studio):
    recipe, headers = studio.ingredients(), {"idempotency-key": "one"}
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: studio.client().post(RUNS, json=recipe, headers=headers), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    changed = studio.client().post(RUNS, json={**recipe, "name": "another"}, headers=headers)
    assert changed.status_code == 422
    assert changed.json()["problems"][0]["field"] == "Idempotency-Key"


def test_a_recipe_of_things_that_are_not_there_names_each(client):
    body = {"dataset": "data_none", "policy": {"model": "model_none"}, "weights": {"lambda": 1}}
    problem = client.post(RUNS, json=body).json()
    assert problem["code"] == "recipe-invalid"
    assert {one["field"] for one in problem["problems"]} == {"dataset", "policy.model"}


def test_runs_come_in_pages_newest_first_and_by_state(studio, client):
    made = [studio.launch(name=f"number {n}") for n in range(3)]
    first = client.get(RUNS, params={"limit": 2}).json()
    second = client.get(RUNS, params={"limit": 2, "after": first["next"]}).json()
    assert [run["id"] for run in first["items"] + second["items"]][:3] == made[::-1]
    assert client.get(RUNS, params={"state": "succeeded", "limit": 1}).json()["next"] is None
    assert client.get(RUNS, params={"state": "lost"}).json()["problems"][0]["field"] == "state"


def test_a_queued_run_is_cancelled_resumed_cloned_and_deleted(studio, client):
    run_id = studio.launch()
    assert client.delete(f"{RUNS}/{run_id}").status_code == 409
    assert client.post(f"{RUNS}/{run_id}/cancel").json()["state"] == "cancelled"
    assert client.post(f"{RUNS}/{run_id}/cancel").status_code == 409
    assert client.post(f"{RUNS}/{run_id}/resume").json()["state"] == "queued"
    assert client.post(f"{RUNS}/{run_id}/resume").status_code == 409
    cloned = client.post(f"{RUNS}/{run_id}/clone")
    assert cloned.status_code == 202
    assert cloned.headers["location"] == f"{RUNS}/{cloned.json()['id']}"
    client.post(f"{RUNS}/{run_id}/cancel")
    assert client.delete(f"{RUNS}/{run_id}").status_code == 204
    assert client.get(f"{RUNS}/{run_id}").status_code == 404


def test_a_running_run_takes_a_wish_to_cancel(studio, client):
    run_id = record(studio, [StageStarted(stage=Stage.TRAIN)])
    cancelled = client.post(f"{RUNS}/{run_id}/cancel")
    assert cancelled.status_code == 202
    assert cancelled.json()["state"] == "running"
    assert cancelled.json()["cancel_requested_at"] is not None


def test_the_journal_is_read_in_order_from_any_place_and_by_kind(studio, client):
    run_id = record(studio, [StageStarted(stage=Stage.TRAIN), *(step(n) for n in range(1, 6))], SUCCEEDED)
    events = client.get(f"{RUNS}/{run_id}/events").json()
    assert [event["seq"] for event in events["items"]] == list(range(1, events["last_seq"] + 1))
    assert events["items"][-1]["payload"]["state"] == "succeeded"
    later = client.get(f"{RUNS}/{run_id}/events", params={"after": 3, "limit": 2}).json()["items"]
    assert [event["seq"] for event in later] == [4, 5]
    steps = client.get(f"{RUNS}/{run_id}/events", params={"kinds": "step"}).json()["items"]
    assert [event["payload"]["step"] for event in steps] == [1, 2, 3, 4, 5]
    unknown = client.get(f"{RUNS}/{run_id}/events", params={"kinds": "step,steps"})
    assert unknown.json()["problems"][0]["field"] == "kinds"


def test_metrics_come_as_series_with_their_meaning(studio, client):
    run_id = record(studio, [step(n, loss=1 / n) for n in range(1, 6)])
    series = client.get(f"{RUNS}/{run_id}/metrics").json()
    assert list(series) == ["loss"]
    assert series["loss"]["title"] == "Loss"
    assert series["loss"]["points"] == [[n, 1 / n] for n in range(1, 6)]
    thin = client.get(f"{RUNS}/{run_id}/metrics", params={"keys": "loss,grad_norm", "points": 2}).json()
    assert len(thin["loss"]["points"]) <= 2
    assert thin["grad_norm"]["points"] == []
    assert client.get(f"{RUNS}/{run_id}/metrics", params={"keys": "los"}).json()["problems"][0]["field"] == "keys"


def test_a_value_that_was_not_finite_is_null(studio, client):
    run_id = record(studio, [step(1, loss=float("nan")), step(2, loss=2.0)])
    assert client.get(f"{RUNS}/{run_id}/metrics").json()["loss"]["points"] == [[1, None], [2, 2.0]]


def test_samples_come_by_step_the_newest_unless_asked(studio, client):
    run_id = record(studio, [sample(1, 0), sample(1, 1), sample(5, 0)])
    newest = client.get(f"{RUNS}/{run_id}/samples").json()
    assert (newest["steps"], newest["step"], len(newest["items"])) == ([1, 5], 5, 1)
    assert len(client.get(f"{RUNS}/{run_id}/samples", params={"step": 1}).json()["items"]) == 2


def test_findings_are_read_by_themselves(studio, client):
    changes = (Change(field="weights.lambda", value=0.42),)
    finding = FindingRaised(
        name="collapse", severity="warning", title="T", evidence="E", remedy="Raise weights.lambda.", step=1, changes=changes
    )
    run_id = record(studio, [step(1), finding, step(2)])
    (kept,) = client.get(f"{RUNS}/{run_id}/findings").json()["items"]
    assert (kept["payload"]["name"], kept["payload"]["remedy"]) == ("collapse", "Raise weights.lambda.")
    assert kept["payload"]["changes"] == [{"field": "weights.lambda", "value": 0.42}]
    browser = studio.browser()
    page = browser.get(f"/runs/{run_id}").text
    assert "Raise “Temperature λ”." in page
    address, words = re.search(r'href="(/runs/new\?clone=[^"]+)">(Clone with [^<]+)<', page).groups()
    assert words == "Clone with λ = 0.42"
    form = browser.get(html.unescape(address)).text
    assert re.search(r'name="weights.lambda"[^>]*value="0.42"', form)


def write_weights(studio, run_id: str) -> None:
    import pyarrow
    import pyarrow.parquet

    row = {
        "batch": 101,
        "example_id": 7,
        "response": 0,
        "preference": 1,
        "num_tokens": 3,
        "logprob_ref": -2.0,
        "reward": 1.0,
        "weight": 0.5,
    }
    folder = studio.app.state.files.artifacts_dir(run_id)
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "weights.parquet")


def test_the_weights_of_a_step_are_those_of_its_batch(studio, client):
    run_id = record(studio, [step(1), step(2)])
    assert client.get(f"{RUNS}/{run_id}/weights", params={"step": 1}).status_code == 404
    write_weights(studio, run_id)
    weights = client.get(f"{RUNS}/{run_id}/weights", params={"step": 1}).json()
    assert weights["batch"] == 101
    assert (weights["items"][0]["example_id"], weights["items"][0]["weight"]) == (7, 0.5)
    assert client.get(f"{RUNS}/{run_id}/weights", params={"batch": 101}).json() == weights
    assert client.get(f"{RUNS}/{run_id}/weights").status_code == 404  # the newest step's batch isn't in the file
    assert client.get(f"{RUNS}/{run_id}/weights", params={"step": 9}).status_code == 404


def test_the_log_is_what_the_journal_says_and_what_each_runner_printed(studio, client):
    remark = LogWritten(level="warning", text="Few prompts.")
    failed = OutcomeReached(outcome=Outcome.FAILED, reason="It broke.", remedy="Mend it.", retry=False)
    run_id = record(studio, [remark], failed)
    said = client.get(f"{RUNS}/{run_id}/log").text.splitlines()
    assert [line.split("  ", 1)[1] for line in said] == [
        "state    queued",
        "state    running, attempt 1, worker-1",
        "warning  Few prompts.",
        "state    failed, attempt 1, worker-1: It broke. Mend it.",
    ]
    assert said[2].startswith("2026-01-31T12:00:00.000+00:00")

    folder = studio.app.state.files.attempt_dir(run_id, 1)
    folder.mkdir(parents=True)
    (folder / "log.txt").write_bytes(b"first\n" + b"x" * 100 + b"\nl\xffast\n")
    log = client.get(f"{RUNS}/{run_id}/log", params={"tail_bytes": 6})
    assert log.headers["content-type"] == "text/plain; charset=utf-8"
    assert log.text.splitlines() == [*said, "", "== Attempt 1: the end of what its runner printed ==", "l\ufffdast"]


def test_the_log_of_one_attempt_is_the_end_of_what_its_runner_printed(studio, client):
    run_id = record(studio, [])
    assert client.get(f"{RUNS}/{run_id}/log", params={"attempt": 1}).text == ""
    folder = studio.app.state.files.attempt_dir(run_id, 1)
    folder.mkdir(parents=True)
    (folder / "log.txt").write_bytes(b"first\n" + b"x" * 100 + b"\nl\xffast\n")
    assert client.get(f"{RUNS}/{run_id}/log", params={"attempt": 1, "tail_bytes": 7}).text == "\nl\ufffdast\n"
    assert client.get(f"{RUNS}/{run_id}/log", params={"attempt": 2}).status_code == 404


@pytest.fixture
def run_with_files(studio):
    made = [
        ArtifactWritten(name=name, title="T", size_bytes=5, sha256="0" * 64)
        for name in ("model/config.json", "samples.jsonl", "gone.txt")
    ]
    run_id = record(studio, made)
    folder = studio.app.state.files.artifacts_dir(run_id)
    (folder / "model").mkdir(parents=True)
    (folder / "model/config.json").write_text("<h1>x")
    (folder / "samples.jsonl").write_text("12345")
    (folder.parent / "secret").write_text("secret")
    (folder / "link").symlink_to(folder.parent / "secret")
    return run_id


def test_a_model_is_downloaded_whole_as_a_zip_archive(client, studio, run_with_files):
    answer = client.get(f"{RUNS}/{run_with_files}/model.zip")
    assert f"{run_with_files}-model.zip" in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        folder = studio.app.state.files.artifacts_dir(run_with_files)
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "model/config.json": (folder / "model/config.json").read_bytes()
        }
    refused = client.get(f"{RUNS}/{studio.launch()}/model.zip")
    assert (refused.status_code, "comes at the end of training" in refused.text) == (404, True)


def test_artifacts_are_listed_and_downloaded(client, run_with_files):
    artifacts = client.get(f"{RUNS}/{run_with_files}/artifacts").json()
    assert [one["name"] for one in artifacts] == ["model/config.json", "samples.jsonl"]
    download = client.get(artifacts[0]["url"])
    assert download.text == "<h1>x"
    assert download.headers["content-type"] == "application/octet-stream"
    assert download.headers["content-disposition"] == 'attachment; filename="config.json"'
    part = client.get(artifacts[1]["url"], headers={"range": "bytes=2-3"})
    assert (part.status_code, part.text) == (206, "34")


TRICKS = [
    "../secret", "..%2fsecret", "%2e%2e/secret", "model/../../secret", "/etc/passwd", "%2fetc%2fpasswd", "link", "model", "%00",
    "a" * 5000, "",
]  # fmt: skip


@pytest.mark.parametrize("name", TRICKS)
def test_no_other_file_can_be_downloaded(client, run_with_files, name):
    response = client.get(f"{RUNS}/{run_with_files}/artifacts/{name}")
    assert response.status_code == 404


@pytest.mark.parametrize("run_id", ["..", "%2e%2e", "..%2f..%2fstudio.db", "%00", "'; DROP TABLE runs; --", "a" * 5000])
def test_an_id_is_only_an_id(client, run_id):
    for part in ("", "/events", "/log", "/artifacts", "/artifacts/x", "/weights?batch=1"):
        assert client.get(f"{RUNS}/{run_id}{part}").status_code in {404, 307}


def test_tags_and_notes_are_the_owners_and_found_again(studio, client, eve):
    run_id = studio.launch(name="Marked")
    assert client.patch(f"{RUNS}/{run_id}", json={"private": True}).status_code == 200
    changed = client.patch(f"{RUNS}/{run_id}", json={"tags": ["  two ", "one", "two", ""], "notes": "Why\r\nso "}).json()
    assert (changed["tags"], changed["notes"], changed["name"]) == (["one", "two"], "Why\nso", "Marked")
    for asked in ({"search": "WHY"}, {"search": "mark on"}, {"tag": "two"}, {"tag": "two", "sort": "name", "order": "desc"}):
        assert [run["id"] for run in client.get(RUNS, params=asked).json()["items"]] == [run_id], asked
        assert eve.get(RUNS, params=asked).json()["items"] == []
    assert eve.patch(f"{RUNS}/{run_id}", json={"tags": []}).status_code == 404
    for wrong in ({"tags": ["a,b"]}, {"tags": ["a\nb"]}, {"tags": [str(n) for n in range(13)]}, {"notes": "\x00"}):
        problem = client.patch(f"{RUNS}/{run_id}", json=wrong).json()
        assert problem["status"] == 422, wrong
        assert next(iter(wrong)) in problem["problems"][0]["field"], wrong
    assert client.patch(f"{RUNS}/{run_id}", json={"tags": [], "notes": ""}).json()["tags"] == []


def test_runs_are_sorted_by_their_newest_figures(studio, client):
    low, high = (
        record(studio, [EvaluationLogged(step=1, metrics={"eval/kl": kl, "eval/win_rate": 0.5})], SUCCEEDED)
        for kl in (901.0, 902.0)
    )
    found = client.get(RUNS, params={"sort": "kl", "order": "desc", "limit": 2}).json()["items"]
    assert [(run["id"], run["kl"], run["win_rate"]) for run in found] == [(high, 902.0, 0.5), (low, 901.0, 0.5)]
    assert client.get(RUNS, params={"sort": "loudness"}).status_code == 422
