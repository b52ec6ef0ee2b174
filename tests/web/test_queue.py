"""The queue and the workers over REST and as pages: what they say, who may steer, and what is refused."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from app.domain.events import AttemptResumed, CheckpointSaved, LogWritten
from app.services import attempts
from app.store import journal
from app.store.database import now
from app.store.tables import Attempt, Run, User, Worker

RUNS, QUEUE, WORKERS = "/api/v1/runs", "/api/v1/queue", "/api/v1/workers"
GPU = {"index": 0, "name": "Some GPU", "memory_bytes": 80 * 10**9, "used_bytes": 20 * 10**9, "utilisation": 0.5}


@pytest.fixture(autouse=True)
def emptied(studio):
    """Each test begins with no run and no worker."""
    with studio.database.writing() as session:
        for table in (Run, Worker):
            for row in session.query(table):
                session.delete(row)


@pytest.fixture
def eves_run(studio) -> str:
    """A queued run of Eve's, made of the administrator's ingredients."""
    run_id = studio.launch(name="Eve's secret plan")
    with studio.database.writing() as session:
        session.get_one(Run, run_id).owner_id = session.query(User).where(User.name == "eve").one().id
    return run_id


def beat(studio, *names: str, slots: int = 1, **more) -> None:
    with studio.database.writing() as session:
        for name in names:
            attempts.beat(session, name, hostname=f"host-of-{name}", devices=[GPU], slots=slots, version="0.1.0", **more)


def begin(studio, worker: str) -> str:
    with studio.database.writing() as session:
        claim = attempts.begin(session, worker, 60)
        assert claim is not None
        return claim.run_id


def test_the_queue_lists_runs_in_their_order_and_pages_by_position(studio, client):
    ids = [studio.launch(name=f"Run {n}") for n in range(5)]
    assert client.patch(f"{RUNS}/{ids[4]}", json={"priority": 7}).json()["priority"] == 7
    assert client.post(f"{RUNS}/{ids[3]}/move", json={"to": "front"}).status_code == 200
    assert client.post(f"{RUNS}/{ids[1]}/pause").status_code == 202
    expected = [ids[4], ids[3], ids[0], ids[2]]
    first = client.get(QUEUE, params={"limit": 3}).json()
    rest = client.get(QUEUE, params={"limit": 3, "after": first["next"]}).json()
    assert [one["id"] for one in first["items"] + rest["items"]] == expected
    assert [one["position"] for one in first["items"] + rest["items"]] == [1, 2, 3, 4]
    assert rest["next"] is None
    (held,) = client.get(QUEUE, params={"held": True}).json()["items"]
    assert (held["id"], held["position"], held["waiting_for"]) == (ids[1], None, "It is paused and begins when it is released.")
    detail = client.get(f"{RUNS}/{ids[2]}").json()
    assert (detail["position"], detail["waiting_for"]) == (4, "No worker is alive: it begins when one is started.")


def test_a_priority_is_given_at_launch_and_changes_no_result(studio, client, eve):
    body = studio.ingredients()
    run = client.post(RUNS, json=body, params={"priority": 3}).json()
    assert run["priority"] == 3
    assert "priority" not in client.get(f"{RUNS}/{run['id']}").json()["recipe"]
    refused = eve.post(RUNS, json=body, params={"priority": 3})
    assert (refused.status_code, "Only an admin" in refused.json()["detail"]) == (403, True)
    assert client.post(RUNS, json=body, params={"priority": 101}).json()["problems"][0]["field"] == "priority"


def test_pausing_and_releasing_twice_is_doing_it_once(studio, client):
    run_id = studio.launch()
    first, second = (client.post(f"{RUNS}/{run_id}/pause").json() for _ in range(2))
    assert first["held_at"] is not None
    assert first == second
    assert [client.post(f"{RUNS}/{run_id}/release").json()["held_at"] for _ in range(2)] == [None, None]
    client.post(f"{RUNS}/{run_id}/cancel")
    for verb in ("pause", "release"):
        refused = client.post(f"{RUNS}/{run_id}/{verb}")
        assert refused.status_code == 409
        assert "has ended (cancelled)" in refused.json()["detail"]


def test_a_paused_run_says_so_in_every_list_and_on_every_page(studio, client):
    body = {"name": "Heat", "recipe": studio.ingredients(), "lambda": [0.1, 0.3]}
    sweep_id = client.post("/api/v1/sweeps", json=body).json()["id"]
    paused, waiting = (one["run_id"] for one in client.get(f"/api/v1/sweeps/{sweep_id}").json()["variants"])
    assert client.post(f"{RUNS}/{paused}/pause").json()["state"] == "paused"
    assert client.get(f"{RUNS}/{paused}").json()["state"] == "paused"
    for state, expected in (("paused", paused), ("queued", waiting)):
        assert [one["id"] for one in client.get(RUNS, params={"state": state}).json()["items"]] == [expected]
    (sweep,) = [one for one in client.get("/api/v1/sweeps").json()["items"] if one["id"] == sweep_id]
    assert (sweep["state"], sweep["counts"]) == ("running", {"paused": 1, "queued": 1})
    browser = studio.browser()
    badge = re.compile(r'data-state="paused">\s*paused<')
    filtered = browser.get("/runs", params={"state": "paused"}).text
    assert (f"/runs/{paused}" in filtered, f"/runs/{waiting}" in filtered) == (True, False)
    for page in (filtered, *(browser.get(path).text for path in ("/runs", f"/runs/{paused}", f"/sweeps/{sweep_id}", "/queue"))):
        assert badge.search(page)
    assert client.post(f"{RUNS}/{waiting}/pause").json()["state"] == "paused"
    assert client.get(f"/api/v1/sweeps/{sweep_id}").json()["state"] == "paused"
    assert client.post(f"{RUNS}/{paused}/release").json()["state"] == "queued"


def test_what_a_run_took_leaves_out_what_it_waited(studio):
    run_id = studio.launch()
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with studio.database.writing() as session:
        run = session.get_one(Run, run_id)
        run.state, run.started_at, run.finished_at = "succeeded", start, start + timedelta(hours=5)
        for number, (first, last) in enumerate([(0, 40), (7200, 7220)], 1):  # and two hours of pause between the two
            begun, ended = start + timedelta(seconds=first), start + timedelta(seconds=last)
            session.add(
                Attempt(run_id=run_id, number=number, worker_id="box", started_at=begun, ended_at=ended, outcome="interrupted")
            )
    assert re.search(r'id="time-left">\s*took 1 min 0 s\s*<', studio.browser().get(f"/runs/{run_id}").text)


def test_a_move_says_where_to_once(studio, client):
    run_id, other = studio.launch(), studio.launch()
    for body in ({}, {"to": "front", "before": other}):
        refused = client.post(f"{RUNS}/{run_id}/move", json=body)
        assert refused.status_code == 422
        assert 'either "to" (front or end) or "before"' in refused.json()["detail"]
    assert client.post(f"{RUNS}/{other}/move", json={"before": run_id}).status_code == 200
    assert [one["id"] for one in client.get(QUEUE).json()["items"]] == [other, run_id]


def test_members_see_and_steer_their_own_runs_and_an_admin_all(studio, client, eve, eves_run):
    mine = studio.launch()
    assert client.patch(f"{RUNS}/{mine}", json={"private": True}).status_code == 200
    assert [one["id"] for one in eve.get(QUEUE).json()["items"]] == [eves_run]
    assert {one["id"] for one in client.get(QUEUE).json()["items"]} == {mine, eves_run}
    for verb, body in (("pause", None), ("release", None), ("move", {"to": "front"})):
        assert eve.post(f"{RUNS}/{mine}/{verb}", json=body).status_code == 404, verb
        assert eve.post(f"{RUNS}/{eves_run}/{verb}", json=body).status_code in (200, 202), verb
    assert eve.post(f"{RUNS}/{eves_run}/move", json={"before": mine}).status_code == 422
    assert eve.patch(f"{RUNS}/{mine}", json={"priority": -1}).status_code == 404
    assert eve.patch(f"{RUNS}/{eves_run}", json={"priority": 1}).status_code == 403
    assert client.patch(f"{RUNS}/{eves_run}", json={"priority": 1}).json()["priority"] == 1


def test_workers_say_what_they_have_and_run_but_not_to_everybody_whose(studio, client, eve):
    run_id = studio.launch(name="Mine alone")
    assert client.patch(f"{RUNS}/{run_id}", json={"private": True}).status_code == 200
    beat(studio, "box", slots=2)
    assert begin(studio, "box") == run_id
    running = {"run_id": run_id, "attempt": 1, "slots": [0], "pid": 1, "spool_lag_bytes": 0, "spool_lag_seconds": 0.25}
    beat(studio, "box", slots=2, load={"running": [running]})
    (worker,) = client.get(WORKERS).json()["items"]
    assert (worker["standing"], worker["num_used"], worker["num_slots"]) == ("alive", 1, 2)
    assert worker["devices"] == [GPU]
    assert worker["running"] == [{"run_id": run_id, "name": "Mine alone", "attempt": 1, "slots": [0], "spool_lag_seconds": 0.25}]
    assert client.get(f"{WORKERS}/box").json() == worker
    seen_by_eve = eve.get(f"{WORKERS}/box")
    assert seen_by_eve.json()["running"][0]["run_id"] is None
    assert "Mine alone" not in seen_by_eve.text
    assert client.get(f"{WORKERS}/nowhere").status_code == 404


def test_only_admins_pause_workers_and_one_that_is_gone_can_be_forgotten(studio, client, eve):
    run_id = studio.launch()
    beat(studio, "box", "other")
    assert begin(studio, "box") == run_id
    for method, body in (("PATCH", {"paused": True}), ("DELETE", None)):
        refused = eve.request(method, f"{WORKERS}/box", json=body)
        assert (refused.status_code, "Only an admin" in refused.json()["detail"]) == (403, True)
    assert client.patch(f"{WORKERS}/box", json={"paused": True}).json()["standing"] == "paused"
    assert client.get(f"{RUNS}/{run_id}").json()["release_requested_at"] is None
    assert client.patch(f"{WORKERS}/box", json={"paused": True, "give_back": True}).status_code == 200
    assert client.get(f"{RUNS}/{run_id}").json()["release_requested_at"] is not None
    assert client.patch(f"{WORKERS}/box", json={"paused": False}).json()["standing"] == "alive"
    assert client.delete(f"{WORKERS}/box").status_code == 409
    with studio.database.writing() as session:
        session.get_one(Worker, "other").left_at = now(session)
    assert client.get(f"{WORKERS}/other").json()["standing"] == "gone"
    assert client.delete(f"{WORKERS}/other").status_code == 204
    assert [one["id"] for one in client.get(WORKERS).json()["items"]] == ["box"]


def test_a_run_is_sent_to_a_worker_and_the_wish_taken_back(studio, client):
    run_id = studio.launch()
    beat(studio, "a", "b")
    assert client.patch(f"{RUNS}/{run_id}", json={"wanted_worker": "c"}).status_code == 422
    assert client.patch(f"{RUNS}/{run_id}", json={"wanted_worker": "b", "avoided_worker": "b"}).status_code == 422
    assert client.patch(f"{RUNS}/{run_id}", json={"wanted_worker": "b"}).json()["wanted_worker"] == "b"
    assert client.get(f"{RUNS}/{run_id}").json()["waiting_for"] == "It waits for worker b."
    client.patch(f"{RUNS}/{run_id}", json={"wanted_worker": None, "avoided_worker": "b"})
    with studio.database.writing() as session:
        assert attempts.begin(session, "b", 60) is None
    assert begin(studio, "a") == run_id
    moved = client.patch(f"{RUNS}/{run_id}", json={"avoided_worker": "a"}).json()
    assert moved["release_requested_at"] is not None
    with studio.database.writing() as session:
        session.get_one(Worker, "b").left_at = now(session)
    stuck = client.patch(f"{RUNS}/{run_id}", json={"avoided_worker": None})
    assert stuck.json()["release_requested_at"] is None
    refused = client.patch(f"{RUNS}/{run_id}", json={"avoided_worker": "a"})
    assert (refused.status_code, "No worker but a is alive" in refused.json()["detail"]) == (409, True)


def test_a_worker_says_which_quick_way_its_machine_does_not_allow_and_why(studio, client):
    beat(studio, "box", load={"off": {"flex": "it needs an NVIDIA GPU."}})
    assert client.get(f"{WORKERS}/box").json()["off"] == {"flex": "it needs an NVIDIA GPU."}
    card = studio.browser().get("/workers/cards").text
    assert re.search(r"<dt>FlexAttention</dt><dd[^>]*>off: it needs an NVIDIA GPU\.</dd>", card)
    beat(studio, "box")
    assert client.get(f"{WORKERS}/box").json()["off"] == {}
    assert "off:" not in studio.browser().get("/workers/cards").text


def test_cards_of_workers_and_their_buttons_stay_where_they_are_whoever_beats(studio):
    browser = studio.browser()

    def ids() -> list[str]:
        return re.findall(r'id="([^"]+)"', browser.get("/workers/cards").text)

    beat(studio, "b", 'a/ü "', "c")
    before = ids()
    assert len(set(before)) == len(before)
    assert all(re.fullmatch(r"[a-z0-9-]+", one) for one in before)
    for name in ('a/ü "', "c", "b"):
        beat(studio, name)
        assert ids() == before
    with studio.database.writing() as session:
        session.delete(session.get_one(Worker, "b"))
    assert set(ids()) < set(before)
    names = [one["id"] for one in studio.client().get(WORKERS).json()["items"]]
    assert names == ['a/ü "', "c"]


def test_a_worker_is_alive_for_the_lease_that_it_told_and_half_a_minute_without(studio, client):
    beat(studio, "old")
    beat(studio, "short", load={"lease_seconds": 5.0})
    beat(studio, "long", load={"lease_seconds": 3600.0})

    def standings(seconds: float) -> dict[str, str]:
        with studio.database.writing() as session:
            for worker in session.query(Worker):
                worker.beat_at = now(session) - timedelta(seconds=seconds)
        return {one["id"]: one["standing"] for one in client.get(WORKERS).json()["items"]}

    assert standings(8) == {"long": "alive", "old": "alive", "short": "gone"}
    assert standings(31) == {"long": "alive", "old": "gone", "short": "gone"}
    assert client.delete(f"{WORKERS}/old").status_code == 204


def test_a_queued_run_tells_the_step_of_its_newest_checkpoint_and_none_when_it_has_none(studio):
    browser = studio.browser()
    saved, unsaved, emptied, resumed = (studio.launch() for _ in range(4))
    back = AttemptResumed(attempt=2, step=5, checkpoint="step-5")  # the newer one was damaged
    note = LogWritten(level="info", text="All checkpoints were removed by a rule.")
    with studio.database.writing() as session:
        for run_id, events in {
            saved: [CheckpointSaved(step=step, name=f"step-{step}", size_bytes=1) for step in (5, 10)],
            unsaved: [],
            emptied: [CheckpointSaved(step=7, name="step-7", size_bytes=1), note],
            resumed: [*(CheckpointSaved(step=step, name=f"step-{step}", size_bytes=1) for step in (5, 8)), back],
        }.items():
            run = session.get_one(Run, run_id)
            run.step = 13
            journal.append(session, run, events)

    def count() -> int:
        asked = []
        listen = (studio.database.engine, "after_cursor_execute", lambda *told: asked.append(told[2]))
        event.listen(*listen)
        try:
            page = browser.get("/queue").text
        finally:
            event.remove(*listen)
        assert re.findall(r"goes on after step (\d+)", page) == ["10", "5"]
        return len(asked)

    few = count()
    for _ in range(5):
        studio.launch()
    assert count() == few
