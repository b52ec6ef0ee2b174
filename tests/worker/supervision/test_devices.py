"""What the worker learns of its GPUs: from nvidia-smi's words, and never at the price of a heartbeat."""

import sys

from tests.waiting import wait_until
from worker.supervision.devices import Device, UsageWatch, parse_gpus, parse_usage

GPUS = "0, GPU-aa, NVIDIA H100 80GB HBM3, 81559\n1, GPU-bb, NVIDIA A10, Rev. 2, 23028\n"
USAGE = "0, 40211, 97, 61\n1, 0, [N/A], [Not Supported]\n"
CARD = Device(0, "NVIDIA A10", 2**30)


def test_devices_are_those_that_are_allowed_here():
    assert [gpu.index for gpu in parse_gpus(GPUS, None)] == [0, 1]
    assert [gpu.name for gpu in parse_gpus(GPUS, "GPU-bb")] == ["NVIDIA A10, Rev. 2"]
    assert parse_gpus(GPUS, "0")[0].memory_bytes == 81559 * 2**20


def test_usage_is_read_and_what_a_card_does_not_know_is_left_out():
    assert parse_usage(USAGE) == {
        0: {"memory_used_bytes": 40211 * 2**20, "utilization_percent": 97.0, "temperature_celsius": 61.0},
        1: {"memory_used_bytes": 0.0},
    }


def test_an_answer_that_is_no_table_is_no_usage():
    assert parse_usage("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n") == {}


def test_the_beat_carries_what_was_heard_last():
    watch = UsageWatch([CARD], command=[sys.executable, "-c", "print('0, 512, 50, 40')"], every=60)
    watch.start()
    wait_until(lambda: "utilization_percent" in watch.describe()[0], "the answer of the command")
    watch.stop()
    assert watch.describe() == [
        {
            "index": 0, "name": "NVIDIA A10", "memory_bytes": 2**30,
            "memory_used_bytes": 512 * 2**20, "utilization_percent": 50.0, "temperature_celsius": 40.0,
        }
    ]  # fmt: skip


def test_a_driver_that_hangs_delays_no_beat(clock):
    watch = UsageWatch([CARD], command=[sys.executable, "-c", "import time; time.sleep(600)"])
    watch.start()
    with clock.within(1):
        assert watch.describe() == [CARD.to_dict()]
        watch.stop()


def test_a_machine_without_a_gpu_asks_nobody():
    watch = UsageWatch([], command=["no-such-program"])
    watch.start()
    assert watch.describe() == []
