"""The studio under load, on SQLite, one web process and one worker: `make load`, or
`make bench ARGS=tests/bench/test_load.py`.

Each test gives lines of one table, printed again as a whole at the end. A missed target fails; LOAD_ONLY_REPORT=1 only
measures, for machines that do other work beside. LOAD_MINUTES=60 lets the metric rows come for an hour (1 by default).
"""

import gzip
import json
import os
import re
import threading
import time

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from app.store.tables import Dataset, Metric, Run
from tests.bench.crowd import (
    BusyStudio,
    Results,
    answer_of,
    busy_studio,
    cpu_seconds,
    forget_peak,
    milliseconds,
    percentile,
    resident_bytes,
    time_requests,
)
from tests.bench.seed import add_long_run, add_runs
from tests.bench.steady import KEYS, STEPS_PER_SECOND
from tests.waiting import wait_until

pytestmark = [pytest.mark.bench, pytest.mark.timeout(0)]

EVENTS_PER_SECOND = 10


@pytest.fixture(scope="module")
def results():
    gathered = Results()
    yield gathered
    print(gathered.text(), flush=True)


@pytest.fixture
def studio(tmp_path):
    with busy_studio(tmp_path) as running:
        yield running


def watch(studio: BusyStudio, num_viewers: int, seconds: float, *, path: str = "/api/v1/runs/{}/stream", meanwhile=None):
    """A run of `seconds` with so many viewers; the viewers' report, with the processor seconds that the web spent."""
    studio.launch()
    recorder = studio.client("recorder", studio.settings.root, EVENTS_PER_SECOND, seconds)
    run_id = recorder.stdout.readline().strip()
    viewers = studio.client("viewers", studio.url, path.format(run_id), studio.token, num_viewers)
    assert viewers.stdout.readline() == "ready\n"
    spent = cpu_seconds(studio.web.popen.pid)
    recorder.stdin.write("go\n")
    recorder.stdin.flush()
    stop = threading.Event()
    helper = threading.Thread(target=meanwhile, args=[stop, run_id]) if meanwhile else None
    if helper:
        helper.start()
    num_recorded = answer_of(recorder)["num_recorded"]
    stop.set()
    report = answer_of(viewers)
    if helper:
        helper.join()
    report["cpu"] = (cpu_seconds(studio.web.popen.pid) - spent) / seconds
    assert report["errors"] == []
    assert report["num_whole"] == num_viewers, report["seqs"]
    assert report["seqs"][0] >= num_recorded
    return report


def test_streams_reach_two_hundred_viewers_while_pages_stay_quick(studio, results):
    seconds: list[float] = []

    def visit(stop: threading.Event, run_id: str) -> None:
        paths = ["/", "/datasets", "/models", f"/runs/{run_id}", "/api/v1/runs", f"/api/v1/runs/{run_id}/metrics"]
        with httpx.Client(base_url=studio.url, headers=studio.headers, timeout=60) as http:
            while not stop.is_set():
                seconds.extend(time_requests(http, paths, 1))
                stop.wait(0.1)

    report = watch(studio, 200, 20, meanwhile=visit)
    p99 = percentile(report["latencies"], 0.99)
    results.add(
        "200 stream viewers × 10 events/s", "p99 < 500 ms, none lost",
        f"p50 {milliseconds(percentile(report['latencies'], 0.5))}, p99 {milliseconds(p99)}, none lost of "
        f"{len(report['latencies'])}, web {report['cpu']:.0%} of a core", met=p99 < 0.5,
    )  # fmt: skip
    p95 = percentile(seconds, 0.95)
    results.add(
        "other pages meanwhile", "p95 < 300 ms",
        f"p95 {milliseconds(p95)} of {len(seconds)}, median {milliseconds(percentile(seconds, 0.5))}", met=p95 < 0.3,
    )  # fmt: skip


def test_five_hundred_viewers_see_all_without_an_error(studio, results):
    report = watch(studio, 500, 10)
    p99 = percentile(report["latencies"], 0.99)
    results.add(
        "500 stream viewers × 10 events/s",
        "no error",
        f"no error, none lost, p99 {milliseconds(p99)}, web {report['cpu']:.0%} of a core",
    )


def test_a_hundred_viewers_of_the_page_see_events_at_once(studio, results):
    report = watch(studio, 100, 10)
    p95 = percentile(report["latencies"], 0.95)
    results.add("stream of 100 viewers", "wish: p95 ≤ 25 ms", f"p95 {milliseconds(p95)}, web {report['cpu']:.0%} of a core")


def test_small_uploads_come_fifty_a_second(studio, results):
    answer_of(studio.client("uploaders", studio.url, studio.token, 4, 20))  # the reading children have started
    spent = cpu_seconds(studio.web.popen.pid)
    report = answer_of(studio.client("uploaders", studio.url, studio.token, 16, 500))
    spent = cpu_seconds(studio.web.popen.pid) - spent
    assert report["answers"] == {"201 ready": 500}
    with studio.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Dataset).where(Dataset.state == "ready")) == 521
    rate, p99 = 500 / report["total"], percentile(report["seconds"], 0.99)
    results.add(
        "small uploads, 16 at once", "≥ 50/s with their row, p99 < 1 s",
        f"{rate:.0f}/s, p99 {milliseconds(p99)}, web {spent / 500 * 1000:.1f} ms of processor each", met=rate >= 50 and p99 < 1,
    )  # fmt: skip


def test_a_gigabyte_is_uploaded_in_little_memory(studio, results):
    pid = studio.web.popen.pid
    studio.http.post("/api/v1/datasets", files={"file": ("small.jsonl", b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n')})
    before = resident_bytes(pid)
    forget_peak(pid)
    began = time.perf_counter()
    answer = studio.http.post("/api/v1/datasets", content=gigabyte(), headers={"content-type": "multipart/form-data; boundary=b"})
    seconds = time.perf_counter() - began
    grown = resident_bytes(pid, "VmHWM") - before
    assert answer.status_code in (201, 422), answer.text  # all of it is one row, too long to be read
    results.add("1 GB upload", "web memory grows < 200 MB", f"{grown / 1e6:.0f} MB, {seconds:.1f} s", met=grown < 200e6)


def gigabyte():
    yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="large.jsonl"\r\n\r\n'
    for _ in range(1000):
        yield bytes(10**6)
    yield b"\r\n--b--\r\n"


def test_a_hundred_thousand_rows_are_ready_and_audited(studio, results, tmp_path):
    path = tmp_path / "pairs.jsonl"
    words = [f"word{number}" for number in range(977)]
    with path.open("w") as file:
        for number in range(100_000):
            answers = [" ".join([side, *(words[(number * 7 + n) % 977] for n in range(40))]) for side in ("Kind:", "Rude:")]
            row = {"prompt": f"Question {number}, said {words[number % 977]}?", "chosen": answers[0], "rejected": answers[1]}
            file.write(json.dumps(row) + "\n")
    pid = studio.web.popen.pid
    peak = Peak(pid)
    began = time.perf_counter()
    with path.open("rb") as file:
        answer = studio.http.post("/api/v1/datasets", files={"file": ("pairs.jsonl", file)})
    assert answer.status_code == 201, answer.text
    dataset_id = answer.json()["id"]
    found = wait_until(lambda: ready(studio, dataset_id), seconds=120, what="reading the rows")
    seconds = time.perf_counter() - began
    most = peak.stop()
    assert (found["num_examples"], found["audit"]["num_rows"]) == (100_000, 100_000)
    results.add(
        "100 000-row preference file", "ready and audited in < 20 s, < 400 MB",
        f"{seconds:.1f} s, {most / 1e6:.0f} MB (web and the child that reads), {path.stat().st_size / 1e6:.0f} MB of file",
        met=seconds < 20 and most < 400e6,
    )  # fmt: skip


def ready(studio: BusyStudio, dataset_id: str):
    found = studio.http.get(f"/api/v1/datasets/{dataset_id}").json()
    assert found["state"] in ("processing", "ready"), found
    return found if found["state"] == "ready" else None


class Peak(threading.Thread):
    """The most memory that a process and those of its children that work hold together, looked at twenty times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.pid, self.most, self.over = pid, 0, threading.Event()
        self.start()

    def run(self) -> None:
        process = psutil.Process(self.pid)
        while not self.over.wait(0.05):
            children = [child.memory_info().rss for child in process.children(recursive=True)]
            self.most = max(self.most, process.memory_info().rss + max(children, default=0))

    def stop(self) -> int:
        self.over.set()
        self.join()
        return self.most


def test_the_chart_of_a_million_points_is_quick(studio, results):
    run_id = add_long_run(studio.database, studio.library, 1_000_000)
    paths = {
        "chart of 10^6 points": (f"/api/v1/runs/{run_id}/metrics?keys=loss&points=500", 0.3),
        "chart of 10^6 points, 5000 kept": (f"/api/v1/runs/{run_id}/metrics?keys=loss&points=5000", None),
        "page of a run of 10^6 steps": (f"/runs/{run_id}", 0.3),
        "its charts, with 200 histograms": (f"/runs/{run_id}/series", 0.3),
    }
    for item, (path, limit) in paths.items():
        seconds = time_requests(studio.http, [path], 5)
        worst = max(seconds)
        points = studio.http.get(path)
        target = "< 300 ms, down-sampled" if limit else ""
        results.add(
            item,
            target,
            f"at most {milliseconds(worst)}, {len(points.content) / 1000:.0f} kB",
            met=limit is None or worst < limit,
        )
    series = studio.http.get(paths["chart of 10^6 points"][0]).json()["loss"]["points"]
    assert 250 <= len(series) <= 500
    add_runs(studio.database, studio.library, 10_000)
    seconds = time_requests(studio.http, ["/metrics"], 5)
    results.add("/metrics with 10 000 runs and 10^6 metric rows", "", f"at most {milliseconds(max(seconds))}")


def test_a_hundred_launches_at_once_are_queued_once_each(studio, results):
    body = studio.recipe().model_dump_json(by_alias=True)
    everything: list[float] = []
    for _ in range(3):
        launchers = studio.client("launchers", studio.url, studio.token, 100)
        launchers.stdin.write(body + "\n")
        launchers.stdin.flush()
        report = answer_of(launchers)
        assert len(set(report["ids"])) == 100
        everything += report["seconds"]
    with studio.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Run).where(Run.state == "queued")) == 300
    p95 = percentile(everything, 0.95)
    results.add(
        "100 concurrent launches", "all queued once, p95 < 500 ms",
        f"3 × 100 queued once, p95 {milliseconds(p95)}, median {milliseconds(percentile(everything, 0.5))}", met=p95 < 0.5,
    )  # fmt: skip


def test_lists_of_ten_thousand_runs_are_quick(studio, results):
    ids = add_runs(studio.database, studio.library, 10_000)
    pages = ["/", "/home", "/runs", "/runs?state=failed", f"/runs?after={ids[5000]}", f"/runs?after={ids[50]}"]
    narrowed = [
        "/runs?sort=kl",
        f"/runs?sort=name&after={ids[5000]}",
        "/runs?q=run+99",
        "/runs?q=nowhere&sort=win_rate",
        "/runs?tag=third",
    ]
    lists = ["/api/v1/runs", "/api/v1/runs?state=failed", f"/api/v1/runs?after={ids[5000]}", f"/api/v1/runs?after={ids[50]}"]
    lists += ["/api/v1/runs?sort=reward_gain", "/api/v1/runs?search=run+99"]
    asked = (("home and list of 10 000 runs", pages), ("searched and sorted", narrowed), ("the same over REST", lists))
    for item, paths in asked:
        seconds = time_requests(studio.http, paths, 20)
        p95 = percentile(seconds, 0.95)
        results.add(
            item, "p95 < 300 ms", f"p95 {milliseconds(p95)}, median {milliseconds(percentile(seconds, 0.5))}", met=p95 < 0.3
        )
    seconds = time_requests(studio.http, ["/api/v1/runs?limit=200", f"/api/v1/runs?limit=100&after={ids[-200]}"], 20)
    three_hundred = percentile([first + second for first, second in zip(seconds[::2], seconds[1::2], strict=True)], 0.5)
    results.add("300 of 10 000 runs over REST, two pages", "wish: ≤ 50 ms", milliseconds(three_hundred))
    size = len(gzip.compress(studio.http.get("/").content))
    results.add("first page", "≤ 250 kB gzip", f"{size / 1000:.1f} kB of HTML", met=size < 250e3)


def test_ten_runs_log_a_thousand_values_a_second(studio, results):
    seconds = 60 * float(os.environ.get("LOAD_MINUTES", "1"))
    ids = studio.launch(10)
    paths = ",".join(f"/api/v1/runs/{run_id}/stream" for run_id in ids)
    viewers = studio.client("viewers", studio.url, paths, studio.token, 10)
    assert viewers.stdout.readline() == "ready\n"
    worker = studio.start_worker("-m", "tests.bench.steady", "work", str(seconds), slots=10)
    report = answer_of(viewers, timeout=seconds + 600)
    assert (report["errors"], report["num_whole"]) == ([], 10)
    num_steps = int(seconds * STEPS_PER_SECOND)
    with studio.database.reading() as session:
        query = select(Run.state, func.count()).group_by(Run.state)
        assert dict(session.execute(query).all()) == {"succeeded": 10}
        num_values = session.scalar(select(func.count()).select_from(Metric))
    assert num_values == 10 * num_steps * len(KEYS)
    said = [line for line in (studio.web.text + worker.text).splitlines() if re.search("busy|locked|database is away", line)]
    lag, cores = report["latencies"][-1], (cpu_seconds(worker.popen.pid) / seconds, cpu_seconds(studio.web.popen.pid) / seconds)
    results.add(
        f"metric rows of 10 runs for {seconds / 60:g} min", "1000/s, no SQLITE_BUSY, stream lag < 2 s",
        f"{num_values / seconds:.0f}/s, {len(said)} times busy, lag at most {milliseconds(lag)}, p99 "
        f"{milliseconds(percentile(report['latencies'], 0.99))}, worker {cores[0]:.0%} and web {cores[1]:.0%} of a core",
        met=lag < 2 and not said,
    )  # fmt: skip
