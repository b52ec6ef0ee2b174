"""Several processes on one run: they end where one ends, hand over to another number of processes, and die together."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from tests.waiting import END_SECONDS
from tests.worker.ranks import ask_for, fork_ranks, read_model
from tests.worker.workshop import Workshop, read_events, start_runner
from worker.models.parallel import Ranks

CLOCK = {"step_seconds", "tokens_per_second", "peak_memory_bytes", "cost/seconds"}
EVALUATION = {"num_prompts": 2, "num_samples_shown": 1, "max_new_tokens": 4, "every": 5, "share": 0.2, "split": "prompt"}
LORA = {"policy_settings": {"adaptation": "lora", "lora": {"rank": 4}}}
SETTINGS: dict[str, dict[str, Any]] = {"var": {}, "lora": LORA, "dpo": {"method": "dpo"}, "reward": {"method": "reward_model"}}

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(workshop: Workshop) -> Make:
    """An attempt with one of SETTINGS; all share their scores."""

    def make_one(name: str, num_processes: int, **training: Any) -> Path:
        folder = workshop.attempt(evaluation=EVALUATION, scorings=workshop.root / "scorings-ranks", **SETTINGS[name])
        return ask_for(folder, num_processes, **training)

    return make_one


@pytest.fixture(scope="module")
def alone(make: Make) -> Callable[[str], Path]:
    """The same run by one process, made once for each of SETTINGS."""
    done: dict[str, Path] = {}

    def run_once(name: str) -> Path:
        if name not in done:
            done[name] = make(name, 1)
            assert fork_ranks(done[name], 1) == [0]
        return done[name]

    return run_once


def assert_equal_end(folder: Path, reference: Path) -> None:
    """The final model within 1e-5 of its largest weight, and every metric of every step and evaluation within 1e-4."""
    have, want = read_model(folder), read_model(reference)
    assert have.keys() == want.keys()
    for name in want:
        assert float((have[name] - want[name]).abs().max()) <= 1e-5 * float(want[name].abs().max()), name
    for kind in ("step", "evaluation", "final"):
        told, expected = (
            {e["payload"]["step"]: e["payload"]["metrics"] for e in read_events(f, kind)} for f in (folder, reference)
        )
        assert set(told) <= set(expected)
        for step, metrics in told.items():
            assert metrics.keys() == expected[step].keys()
            for key in metrics.keys() - CLOCK:
                assert metrics[key] == pytest.approx(expected[step][key], rel=1e-4, abs=1e-4), (step, key)


def read_metrics(folder: Path, kind: str) -> dict[int, dict[str, float]]:
    return {event["payload"]["step"]: event["payload"]["metrics"] for event in read_events(folder, kind)}


@pytest.mark.parametrize(
    ("name", "sharding", "micro_batch_size"),
    [("var", "none", None), ("var", "full", None), ("lora", "full", 1), ("dpo", "full", 1), ("reward", "none", 1)],
)
def test_two_processes_end_equal_to_one(
    name: str, sharding: str, micro_batch_size: int | None, make: Make, alone: Callable[[str], Path]
) -> None:
    folder = make(name, 2, sharding=sharding, micro_batch_size=micro_batch_size)
    assert fork_ranks(folder, 2) == [0, 0], (folder / "log.txt").read_text()
    assert_equal_end(folder, alone(name))


def test_two_processes_have_the_draws_and_the_weights_of_one(workshop: Workshop) -> None:
    """Each number of processes makes its own, which are equal to the digit."""
    told = []
    for size in (1, 2):
        scorings = workshop.root / f"scorings-ranks-{size}"
        folder = workshop.attempt(
            scorings=scorings, reward_folder=workshop.reward(), evaluation={**EVALUATION, "num_prompts": 0},
            weights={"preset": "draws", "lambda": 0.5, "responses": "all"}, draws={"num_draws": 3, "max_new_tokens": 5},
        )  # fmt: skip
        assert fork_ranks(ask_for(folder, size, steps=1), size) == [0] * size, (folder / "log.txt").read_text()
        made = {path.relative_to(scorings): load_file(path) for path in scorings.glob("draw*/*.safetensors")}
        told.append((made, pq.read_table(folder.parents[1] / "artifacts" / "weights.parquet"), read_metrics(folder, "step")[1]))
    (one, weights, step), (two, same_weights, same_step) = told
    assert sorted(one) == sorted(two)
    assert len(one) == 2
    for path, tensors in one.items():
        assert all(two[path][name].equal(tensors[name]) for name in tensors), path
    assert same_weights.equals(weights)
    assert {key: same_step[key] for key in step if key not in CLOCK} == pytest.approx(
        {key: step[key] for key in step if key not in CLOCK}, rel=1e-4, abs=1e-4
    )


def test_three_processes_share_batches_of_two_or_three_prompts(make: Make) -> None:
    """One of them has no row of its own now and then, and every sharded pass needs all three."""
    one, three = make("var", 1, batch_size=3, steps=4), make("var", 3, batch_size=3, steps=4, sharding="full")
    assert fork_ranks(one, 1) == [0]
    assert fork_ranks(three, 3) == [0, 0, 0], (three / "log.txt").read_text()
    assert_equal_end(three, one)


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_batch_of_which_nothing_enters_the_loss_moves_no_weight(sharding: str, workshop: Workshop) -> None:
    """One process has no gradient then, so that AdamW rests; several must not step on a sum of nothings."""
    rows = workshop.examples(16)
    for row in rows[4:]:
        row["responses"] = [{**response, "preference": None} for response in row["responses"]]
    parts = {"method": "sft", "weights": {"responses": "chosen"}, "dataset": workshop.dataset(rows, "few-chosen")}
    one, two = (workshop.attempt(**parts, training={"batch_size": 2}, evaluation={"share": 0.0}) for _ in range(2))
    assert fork_ranks(ask_for(one, 1), 1) == [0]
    assert fork_ranks(ask_for(two, 2, sharding=sharding), 2) == [0, 0], (two / "log.txt").read_text()
    norms = [metrics["grad_norm"] for metrics in read_metrics(one, "step").values()]
    assert 0 < norms.count(0.0) < len(norms)
    assert_equal_end(two, one)


@pytest.mark.parametrize(("before", "after", "sharding"), [(2, 1, "full"), (1, 2, "full")])
def test_a_run_resumes_with_another_number_of_processes(
    before: int, after: int, sharding: str, make: Make, alone: Callable[[str], Path], workshop: Workshop
) -> None:
    first = make("var", before, sharding=sharding, keep_checkpoints=9)
    assert fork_ranks(first, before) == [0] * before
    checkpoints = first.parents[1] / "checkpoints"
    for path in checkpoints.glob("step-*"):
        if int(path.name[5:]) > 4:
            shutil.rmtree(path)
    second = ask_for(workshop.next_attempt(first), after)
    assert fork_ranks(second, after) == [0] * after, (second / "log.txt").read_text()
    assert read_events(second, "resume")[0]["payload"] == {"attempt": 2, "step": 4, "checkpoint": "step-000004"}
    assert_equal_end(second, alone("var"))


def test_a_run_is_stopped_by_its_leader_and_dies_with_any_of_its_processes(
    make: Make, alone: Callable[[str], Path], workshop: Workshop
) -> None:
    first = make("var", 2, sharding="full", checkpoint_every=1)
    runner = start_runner(first)
    wait_for_steps(first, 2)
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(END_SECONDS) == 12
    last_step = read_events(first, "step")[-1]["payload"]["step"]
    assert read_events(first, "outcome")[-1]["payload"]["outcome"] == "interrupted"
    assert read_events(first, "checkpoint")[-1]["payload"]["step"] == last_step < 10

    second = workshop.next_attempt(first)
    runner = start_runner(second)
    wait_for_steps(second, 1)
    os.kill(find_rank(runner.pid, 1), signal.SIGKILL)
    assert runner.wait(END_SECONDS) == -signal.SIGKILL  # as a single process would have ended: the supervisor tries again
    told = read_events(second)[-1]["payload"]["text"]
    assert told == "Process 2 of 2 of this run was ended by SIGKILL; the others were stopped with it."
    assert not list_ranks(runner.pid)

    third = ask_for(workshop.next_attempt(second), 1)
    assert fork_ranks(third, 1) == [0]
    assert_equal_end(third, alone("var"))


def wait_for_steps(folder: Path, num: int) -> None:
    deadline = time.monotonic() + 120
    while not (folder / "events.jsonl").exists() or len(read_whole(folder)) < num:
        assert time.monotonic() < deadline, (folder / "log.txt").read_text()
        time.sleep(0.02)


def read_whole(folder: Path) -> list[str]:
    return [line for line in (folder / "events.jsonl").read_text().splitlines() if '"kind": "step"' in line]


def list_ranks(parent: int) -> dict[int, list[str]]:
    """Living ranks in the session that `parent` leads, with their arguments."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if entry.name.isdigit() and int(fields[3]) == parent and int(entry.name) != parent and fields[0] != "Z":
                told = (entry / "cmdline").read_bytes().decode().split("\0")
                found |= {int(entry.name): told} if "worker.rank" in told else {}
        except OSError:
            continue
    return found


def find_rank(runner: int, rank: int) -> int:
    (pid,) = [pid for pid, told in list_ranks(runner).items() if told[told.index("worker.rank") + 2] == str(rank)]
    return pid


def test_shares_are_whole_disjoint_and_balanced() -> None:
    costs = [7, 1, 3, 3, 9, 2, 5, 5]
    shares = [Ranks(rank, 3).share(costs) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(8))
    loads = [sum(costs[item] for item in share) for share in shares]
    assert max(loads) - min(loads) <= 2
    assert Ranks(2, 3).share([4]) == []
