"""What Prometheus reads: the requests of this process as they happen, and the studio as its database has it at that moment.

Nothing is global: each application has its registry. The table of all series is in docs/observability.md.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from app.domain.run import RunKind, RunState
from app.store.prometheus import Measures, WorkerMeasures
from app.store.workers import WorkerState

LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
Family = TypeVar("Family", GaugeMetricFamily, CounterMetricFamily)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RequestMetrics:
    """Counts and times of one web process, from its start."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route")
        self.requests = Counter("studio_http_requests", "Answered requests.", (*labels, "status"), registry=self.registry)
        self.seconds = Histogram(
            "studio_http_request_seconds", "Time until an answer was out; streams are left out.", labels,
            registry=self.registry, buckets=LATENCIES,
        )  # fmt: skip
        self.viewers = Gauge("studio_stream_viewers", "Open streams of events.", registry=self.registry)
        self.uploaded = Counter("studio_upload_bytes", "Bytes of data sets that were taken in.", registry=self.registry)
        ProcessCollector(registry=self.registry)
        threads = Gauge("process_threads", "Python threads of the web process.", registry=self.registry)
        threads.set_function(threading.active_count)

    def note(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count an answer; `seconds` None leaves it out of the times."""
        self.requests.labels(method, route, str(status)).inc()
        if seconds is not None:
            self.seconds.labels(method, route).observe(seconds)


class Studio:
    """A registry of one moment: what was measured, as families of series."""

    def __init__(self, measures: Measures, *, round_trip_seconds: float) -> None:
        self.measures, self.round_trip_seconds = measures, round_trip_seconds

    def collect(self) -> Iterator[Metric]:
        yield from self._queue()
        yield from self._runs()
        yield from self._workers()
        yield from self._devices()
        yield gauge("studio_ingest_waiting", "Data sets that are being read or wait for it.", {(): self.measures.num_ingesting})
        yield gauge(
            "studio_database_round_trip_seconds", "Time of the smallest query, as of this scrape.", {(): self.round_trip_seconds}
        )

    def _queue(self) -> Iterator[Metric]:
        waiting = {(kind, held): self.measures.queued.get((kind, held), 0) for kind in RunKind for held in ("no", "yes")}
        yield gauge("studio_queue_depth", "Runs that wait for a worker.", waiting, ("kind", "held"))
        yield gauge(
            "studio_queue_oldest_seconds", "How long the first of them has waited; 0 when none does.",
            {(): self.measures.oldest_waiting_seconds},
        )  # fmt: skip

    def _runs(self) -> Iterator[Metric]:
        states = {(state,): self.measures.states.get(state, 0) for state in RunState}
        yield gauge("studio_runs", "Runs by state.", states, ("state",))
        outcomes = {(outcome or "running",): number for outcome, number in self.measures.outcomes.items()}
        yield counter("studio_attempts", "Attempts by outcome; lost: its worker or runner died.", outcomes, ("outcome",))
        yield counter("studio_requeues", "Attempts beyond the first of their run.", {(): self.measures.num_requeues})
        running = self.measures.running
        seconds = {(run_id,): values["step_seconds"] for run_id, values in running.items() if "step_seconds" in values}
        yield gauge("studio_run_step_seconds", "Newest time per step of a running run.", seconds, ("run_id",))
        tokens = {(run_id,): values["tokens_per_second"] for run_id, values in running.items() if "tokens_per_second" in values}
        yield gauge("studio_run_tokens_per_second", "Newest throughput of a running run.", tokens, ("run_id",))

    def _workers(self) -> Iterator[Metric]:
        standings = {(state,): self.measures.standings.get(state, 0) for state in get_args(WorkerState)}
        yield gauge("studio_workers", "Workers by state; gone: silent for longer than its lease.", standings, ("state",))
        yield gauge(
            "studio_slots_free", "Slots that nothing uses, of workers that are alive and not paused.",
            {(): self.measures.num_free_slots},
        )  # fmt: skip
        ages = {(worker.id,): worker.heartbeat_age_seconds for worker in self.measures.workers}
        yield gauge("studio_worker_heartbeat_age_seconds", "Since the worker was heard last, gone or not.", ages, ("worker",))
        for name, meaning, field in (
            ("studio_worker_slots", "Processes that it can train at once.", "slots"),
            ("studio_worker_slots_used", "Of these, taken as of its last beat.", "slots_used"),
            ("studio_worker_runs", "Runs in its hands.", "num_runs"),
            ("studio_spool_lag_bytes", "What its runners wrote and it has not recorded.", "spool_lag_bytes"),
            ("studio_spool_lag_seconds", "Age of the oldest of that; 0 when all is recorded.", "spool_lag_seconds"),
        ):
            yield gauge(name, meaning, {(worker.id,): getattr(worker, field) for worker in self._living()}, ("worker",))

    def _living(self) -> list[WorkerMeasures]:
        """Return what a worker that is gone said last is true no more."""
        return [worker for worker in self.measures.workers if worker.standing != "gone"]

    def _devices(self) -> Iterator[Metric]:
        for name, meaning, field, scale in (
            ("studio_gpu_memory_total_bytes", "Memory of the GPU.", "memory_bytes", 1.0),
            ("studio_gpu_memory_used_bytes", "Of it, in use by any process.", "memory_used_bytes", 1.0),
            (
                "studio_gpu_utilization_ratio",
                "Share of the last second in which a kernel ran, 0 to 1.",
                "utilization_percent",
                0.01,
            ),
            ("studio_gpu_temperature_celsius", "Temperature of the GPU.", "temperature_celsius", 1.0),
        ):
            values = {
                (worker.id, str(device["index"]), str(device.get("name", ""))): device[field] * scale
                for worker in self._living()
                for device in worker.devices
                if device.get(field) is not None
            }
            yield gauge(name, meaning, values, ("worker", "device", "name"))


def gauge(name: str, meaning: str, values: Mapping[Any, float], labels: Iterable[str] = ()) -> GaugeMetricFamily:
    return filled(GaugeMetricFamily(name, meaning, labels=list(labels)), values)


def counter(name: str, meaning: str, values: Mapping[Any, float], labels: Iterable[str] = ()) -> CounterMetricFamily:
    return filled(CounterMetricFamily(name, meaning, labels=list(labels)), values)


def filled(family: Family, values: Mapping[Any, float]) -> Family:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def render(requests: RequestMetrics, studio: Studio) -> bytes:
    """Both, in Prometheus' text format."""
    return generate_latest(requests.registry) + generate_latest(studio)
