"""/metrics: what the document lists is what is exported, the values are the studio's own, and labels stay few."""

import re
import threading
from datetime import timedelta

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.domain.events import OutcomeReached, SpoolLine
from app.domain.run import Outcome
from app.services import attempts, recordings
from app.store.database import now
from app.store.files.objects import ObjectStore
from app.store.files.shared_files import SharedFiles
from app.store.prometheus import Measures, WorkerMeasures
from app.store.tables import Run, Worker
from app.web.prometheus import RequestMetrics, Studio, render
from tests.architecture.tree import ROOT
from tests.waiting import END_SECONDS, wait_until

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Values:
    """Every sample by name and labels; fails on what Prometheus could not read, and on a sample that comes twice."""
    found: Values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def scrape(client) -> Values:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(answer.text)


def value(found: Values, series: str, **labels: str) -> float:
    return found[series, tuple(sorted(labels.items()))]


def beat(session, name: str = "gpu-1", *, at: timedelta = timedelta(), lease: float = 3600) -> None:
    devices = [{"index": 0, "name": "H100", "memory_bytes": 100, "memory_used_bytes": 40.0, "utilization_percent": 75.0}]
    running = [{"slots": [0, 1], "spool_lag_bytes": 12, "spool_lag_seconds": 1.5}, {"slots": [2], "spool_lag_bytes": 3}]
    load = {"lease_seconds": lease, "running": running}
    attempts.beat(session, name, hostname="here", devices=devices, slots=4, load=load)
    worker = session.get(Worker, name)
    worker.beat_at = now(session) - at


def test_the_document_lists_exactly_what_is_exported():
    device = {
        "index": 0, "name": "H100", "memory_bytes": 1, "memory_used_bytes": 1, "utilization_percent": 1, "temperature_celsius": 1,
    }  # fmt: skip
    worker = WorkerMeasures("w", "alive", 1.0, 1, 1, 1, 1, 1.0, [device])
    measures = Measures(outcomes={"": 1}, running={"run_a": {"step_seconds": 1.0, "tokens_per_second": 1.0}}, workers=[worker])
    requests = RequestMetrics()
    requests.note("GET", "/", 200, 0.1)
    families = text_string_to_metric_families(render(requests, Studio(measures, round_trip_seconds=0.1)).decode())
    exported = {}
    for family in families:
        if family.name.endswith("_created"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        assert family.samples, name
        assert family.documentation.endswith("."), name
        exported[name] = f"| `{name}` | {family.type} | {' '.join(f'`{label}`' for label in labels)} | {family.documentation} |"
    text = (ROOT / "docs/observability.md").read_text()
    table = re.search(r"<!-- series:.*?-->\n.*?\n.*?\n(.*?)<!-- end", text, re.DOTALL)
    assert table is not None
    assert table[1].splitlines() == list(exported.values())


def test_queue_runs_and_attempts_are_those_of_the_database(studio, client):
    waiting, running = studio.launch(), studio.launch()
    with studio.database.writing() as session:
        session.get(Run, waiting).held_at = now(session)
        claim = attempts.begin(session, "gpu-1", lease_seconds=60)
        assert claim.run_id == running
        attempts.lose(session, running, claim.token, "It died.")
        again = attempts.begin(session, "gpu-1", lease_seconds=60)
        attempts.open_spool(session, again)
        payload = {
            "step": 1, "num_steps": 2, "epoch": 0.5, "batch": 0, "histogram": [0, 1], "seconds_left": 1.0,
            "metrics": {"step_seconds": 0.25, "tokens_per_second": 800.0},
        }  # fmt: skip
        recordings.record(
            session, running, again.token, [SpoolLine(n=1, at=now(session).isoformat(), kind="step", payload=payload)]
        )
        beat(session)
    found = scrape(client)
    assert value(found, "studio_queue_depth", kind="training", held="yes") == 1
    assert value(found, "studio_queue_depth", kind="training", held="no") == 0
    assert value(found, "studio_queue_oldest_seconds") == 0  # what is held does not wait
    assert value(found, "studio_runs", state="running") == 1
    assert (value(found, "studio_runs", state="paused"), value(found, "studio_runs", state="queued")) == (1, 0)
    assert value(found, "studio_attempts_total", outcome="lost") == 1
    assert value(found, "studio_attempts_total", outcome="running") == 1
    assert value(found, "studio_requeues_total") == 1
    assert value(found, "studio_run_step_seconds", run_id=running) == 0.25
    assert value(found, "studio_run_tokens_per_second", run_id=running) == 800
    assert value(found, "studio_worker_runs", worker="gpu-1") == 1
    with studio.database.writing() as session:
        attempts.finish(session, running, again.token, OutcomeReached(outcome=Outcome.INTERRUPTED, reason="Enough."))
        session.get(Run, waiting).held_at = None
        session.get(Run, waiting).queued_at = now(session) - timedelta(seconds=90)
    later = scrape(client)
    assert 90 <= value(later, "studio_queue_oldest_seconds") < 90 + END_SECONDS
    assert not [name for name, _ in later if name == "studio_run_step_seconds"]


def test_workers_and_their_gpus_are_as_of_their_last_beat(studio, client):
    with studio.database.writing() as session:
        beat(session, "gpu-2", at=timedelta(seconds=10), lease=3600)
    found = scrape(client)
    assert 10 <= value(found, "studio_worker_heartbeat_age_seconds", worker="gpu-2") < 10 + END_SECONDS
    assert value(found, "studio_worker_slots", worker="gpu-2") == 4
    assert value(found, "studio_worker_slots_used", worker="gpu-2") == 3
    assert value(found, "studio_spool_lag_bytes", worker="gpu-2") == 15
    assert value(found, "studio_spool_lag_seconds", worker="gpu-2") == 1.5
    card = {"worker": "gpu-2", "device": "0", "name": "H100"}
    assert value(found, "studio_gpu_memory_used_bytes", **card) == 40
    assert value(found, "studio_gpu_memory_total_bytes", **card) == 100
    assert value(found, "studio_gpu_utilization_ratio", **card) == 0.75
    assert not [labels for name, labels in found if name == "studio_gpu_temperature_celsius" and ("worker", "gpu-2") in labels]


def test_a_worker_that_is_gone_has_an_age_and_nothing_else_and_a_paused_one_no_free_slot(studio, client):
    with studio.database.writing() as session:
        for old in session.query(Worker):
            session.delete(old)
        session.flush()
        beat(session, "crashed", at=timedelta(seconds=40), lease=30)
    alone = scrape(client)
    states = {state: value(alone, "studio_workers", state=state) for state in ("alive", "paused", "gone")}
    assert states == {"alive": 0, "paused": 0, "gone": 1}
    told = {name for name, labels in alone if ("worker", "crashed") in labels}
    assert told == {"studio_worker_heartbeat_age_seconds"}
    assert value(alone, "studio_slots_free") == 0
    with studio.database.writing() as session:
        beat(session, "resting")
        session.get(Worker, "resting").paused_at = now(session)
    paused = scrape(client)
    assert value(paused, "studio_workers", state="paused") == 1
    assert value(paused, "studio_worker_slots", worker="resting") == 4
    assert value(paused, "studio_slots_free") == 0
    with studio.database.writing() as session:
        session.get(Worker, "resting").paused_at = None
    assert value(scrape(client), "studio_slots_free") == 1


def test_requests_are_counted_by_route_and_never_by_what_was_typed(studio, client):
    before = scrape(client)
    for number in range(30):
        client.get(f"/api/v1/runs/run_{number}")
        client.get(f"/no/such/page/{number}")
        client.request(f"BREW{number}", "/")
    found = scrape(client)
    missing = {"method": "GET", "route": "/api/v1/runs/{run_id}", "status": "404"}
    assert value(found, "studio_http_requests_total", **missing) == 30
    assert value(found, "studio_http_request_seconds_count", method="GET", route="/api/v1/runs/{run_id}") >= 30
    fresh = {labels for name, labels in found.keys() - before.keys() if name == "studio_http_requests_total"}
    assert len(fresh) <= 6


def test_who_is_not_signed_in_makes_no_series_of_routes(studio, client):
    before, stranger = scrape(client), studio.client("")
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"):
        for path in ("/", "/runs", "/runs/new", "/datasets", "/models", "/api/v1/runs", "/api/v1/models", "/api/v1/queue"):
            stranger.request(method, path)
    fresh = {(name, *labels) for name, labels in scrape(client).keys() - before.keys()}
    assert {dict(labels)["route"] for _, *labels in fresh if "route" in dict(labels)} <= {"strangers", "unmatched", "/metrics"}


def test_uploads_ingest_process_and_database_are_measured(studio, client, clock):
    before = value(scrape(client), "studio_upload_bytes_total")
    content = studio.upload()["size_bytes"]
    found = scrape(client)
    assert value(found, "studio_upload_bytes_total") == before + content
    assert value(found, "studio_ingest_waiting") == 0
    round_trip = value(found, "studio_database_round_trip_seconds")
    assert round_trip > 0
    clock.check(round_trip, 5)
    assert value(found, "process_resident_memory_bytes") > 10**7
    assert value(found, "process_open_fds") > 3
    assert value(found, "process_threads") >= 1


def test_open_streams_are_viewers_until_they_close(server):
    headers = {"authorization": f"Bearer {server.studio.token}"}
    run_id = server.studio.launch()
    opened, leave = threading.Event(), threading.Event()

    def view() -> None:
        with httpx.stream("GET", f"{server.url}/api/v1/runs/{run_id}/stream", headers=headers, timeout=60) as answer:
            lines = answer.iter_lines()  # kept: when it is dropped, the connection closes
            next(lines)
            opened.set()
            leave.wait(END_SECONDS)

    def count() -> float:
        return value(parse(httpx.get(f"{server.url}/metrics", headers=headers, timeout=30).text), "studio_stream_viewers")

    assert count() == 0
    viewer = threading.Thread(target=view)
    viewer.start()
    assert opened.wait(END_SECONDS)
    assert count() == 1
    leave.set()
    viewer.join()
    wait_until(lambda: count() == 0, what="the end of the stream")


def test_two_applications_share_no_counter(studio, server):
    studio.client().get("/api/v1/models")
    headers = {"authorization": f"Bearer {server.studio.token}"}
    found = parse(httpx.get(f"{server.url}/metrics", headers=headers, timeout=30).text)
    assert not [
        labels for name, labels in found if name == "studio_http_requests_total" and ("route", "/api/v1/models") in labels
    ]


@pytest.mark.parametrize("name", ["alerts.yml", "prometheus.yml"])
def test_the_examples_for_prometheus_name_series_that_exist(name):
    document = yaml.safe_load((ROOT / "docs" / name).read_text())
    listed = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/observability.md").read_text(), re.MULTILINE))
    for group in document.get("groups", []):
        for rule in group["rules"]:
            assert set(re.findall(r"studio_\w+", rule["expr"])) <= listed, rule["alert"]
    assert document


def test_readiness_names_what_is_missing(studio, client, monkeypatch):
    monkeypatch.setattr(studio.app.state.files, "root", studio.settings.root / "gone")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    problem = answer.json()
    assert "can't be written" in problem["detail"]
    checks = problem["extra"]["checks"]
    assert {name for name, check in checks.items() if not check["ok"]} == {"data_folder"}


def test_a_broker_that_is_away_is_said_and_is_not_fatal(studio, client, monkeypatch, clock):
    queue = studio.database.hints
    monkeypatch.setattr(queue, "settings", queue.settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"}))
    with clock.within(10):
        answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["checks"]["broker"]["ok"] is False
    assert "runs start when a worker looks" in answer.json()["checks"]["broker"]["detail"]


def test_an_object_store_that_is_away_makes_the_studio_not_ready(studio, client, monkeypatch):
    store = ObjectStore("s3://nowhere/studio", "http://127.0.0.1:1")
    monkeypatch.setattr(studio.app.state, "files", SharedFiles(studio.settings.root, store))
    problem = client.get("/readyz").json()
    assert problem["status"] == 503
    checks = problem["extra"]["checks"]
    assert {name for name, check in checks.items() if not check["ok"]} == {"store"}
    assert checks["store"]["detail"] in problem["detail"]


def test_the_alert_of_no_worker_asks_for_those_that_live_and_that_of_a_waiting_queue_for_free_slots():
    document = yaml.safe_load((ROOT / "docs/alerts.yml").read_text())
    rules = {rule["alert"]: rule["expr"] for group in document["groups"] for rule in group["rules"]}
    assert rules["NoWorker"].endswith('and sum(studio_workers{state=~"alive|paused"}) == 0')
    assert rules["QueueWaits"].endswith("and on() studio_slots_free > 0")
