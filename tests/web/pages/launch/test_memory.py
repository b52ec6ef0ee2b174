"""The memory plan beside the devices there are."""

from datetime import UTC, datetime, timedelta
from typing import Any

from app.domain.recipe import Recipe
from app.store.tables import Worker
from app.web.pages.launch.memory import compare

NOW = datetime(2026, 1, 31, tzinfo=UTC)
FACTS = {
    "num_parameters": 134_515_008, "hidden_size": 576, "num_layers": 30, "intermediate_size": 1536, "num_heads": 9,
    "num_kv_heads": 3, "vocab_size": 49_152, "tied_embeddings": True,
}  # fmt: skip


def recipe(**training: Any) -> Recipe:
    parts = {"dataset": "d", "policy": {"model": "p"}, "weights": {"lambda": 0.3}, "training": training}
    return Recipe.model_validate(parts)


def worker(*sizes: int, seconds_ago: float = 1) -> Worker:
    devices = [{"index": place, "name": f"GPU {size}", "memory_bytes": size} for place, size in enumerate(sizes)]
    beat = NOW - timedelta(seconds=seconds_ago)
    return Worker(id=str(sizes), hostname="box", devices=devices, slots=1, started_at=beat, beat_at=beat, load={})


def test_a_plan_is_compared_with_the_largest_device_that_is_alive() -> None:
    memory = compare(
        recipe(), FACTS, [worker(8 * 2**30), worker(80 * 2**30, 4 * 2**30), worker(900 * 2**30, seconds_ago=600)], NOW
    )
    assert memory.plan is not None
    assert (memory.limit_bytes, memory.device) == (80 * 2**30, f"GPU {80 * 2**30}")
    assert not memory.is_over
    assert compare(recipe(), FACTS, [worker(8 * 2**30)], NOW).is_over


def test_the_parts_add_up_to_the_plan() -> None:
    memory = compare(recipe(), FACTS, [], NOW)
    assert memory.plan is not None
    assert sum(size for _, _, size, _ in memory.parts) == memory.plan.predicted_bytes
    assert memory.limit_bytes is None


def test_a_model_that_was_not_looked_into_has_no_plan_and_says_why() -> None:
    memory = compare(recipe(), {}, [], NOW)
    assert memory.plan is None
    assert "aren't known" in memory.sentence


def test_more_processes_than_any_worker_has_devices_are_told() -> None:
    assert "no worker has more than 2" in compare(recipe(num_processes=4), FACTS, [worker(2**36, 2**36)], NOW).shortage
    assert compare(recipe(num_processes=2), FACTS, [worker(2**36, 2**36)], NOW).shortage == ""
