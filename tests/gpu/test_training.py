"""Training on an NVIDIA GPU, run by `make gpu`: packed rows are right there, and what a step costs beside TRL's.

Models of 0.5 B and 1.5 B parameters, random weights, bfloat16. Every row of the table is a process of its own, one after the
other. MFU: useful operations of a step over what the GPU can do in its time; goal for the 1.5 B model: at least 0.45.
"""

import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.steps import METHODS, SHAPES, build_network, count_flops, count_tokens
from worker.models.adapter import adapt, find_flex_fault
from worker.models.packed import Packing

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and torch sees none here"),
]
ROUNDS = 5
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}  # dense bfloat16, data sheets
CHECKOUT = Path(__file__).resolve().parents[2]


class Step:
    """A process of tests.gpu.steps."""

    def __init__(self, method: str, size: str) -> None:
        command = [sys.executable, "-m", "tests.gpu.steps", method, size]
        self._process = subprocess.Popen(
            command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def measure(self) -> dict[str, float]:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"{self._process.args} ended with {self._process.wait()}"
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)


def list_methods() -> list[str]:
    has_trl = importlib.util.find_spec("trl") is not None
    return [name for name in METHODS if has_trl or not name.startswith("trl")]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("size", SHAPES)
def test_a_step_beside_trl(size: str) -> None:
    print(f"\n{torch.cuda.get_device_name()}, {size}, {count_tokens()} tokens a step, torch {torch.__version__}")
    print(f"{'method':<12} {'s/step':>8} {'tokens/s':>10} {'MFU':>6} {'GiB':>7}")
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in torch.cuda.get_device_name()), None)
    seconds: dict[str, float] = {}
    for method in list_methods():  # one at a time: together they would not fit every GPU
        step = Step(method, size)
        try:
            answers = [step.measure() for _ in range(ROUNDS + 1)][1:]  # the first one also compiles
        finally:
            step.close()
        seconds[method] = statistics.median(answer["seconds"] for answer in answers)
        mfu = count_flops(size) / seconds[method] / peak if peak else float("nan")
        memory = max(answer["peak"] for answer in answers) / 2**30
        print(f"{method:<12} {seconds[method]:>8.3f} {count_tokens() / seconds[method]:>10.0f} {mfu:>6.2f} {memory:>7.1f}")
    best = min(value for name, value in seconds.items() if name.startswith("var"))
    for method in ("trl-sft", "trl-dpo"):
        if method in seconds:
            print(f"var / {method}: {best / seconds[method]:.2f}")
            assert best < seconds[method]


@pytest.mark.timeout(600)
def test_packed_rows_give_what_padded_rows_give() -> None:
    model = adapt(build_network("0.5B").eval())
    assert model.packs
    assert (not find_flex_fault(model)) == model.flexes
    packing = Packing([[300, 120, 77], [64, 200]])
    ids_N = torch.arange(sum(packing.sizes), device="cuda") * 7919 % 150_000
    parts, offsets = ids_N.split(packing.sizes), packing.offsets()
    with torch.inference_mode():
        have_ND = model.run_packed(ids_N, packing).float()
        for prompt, response in ((0, 1), (0, 2), (3, 4)):
            ids_1T = torch.cat([parts[prompt], parts[response]])[None]
            want_TD = model.run(ids_1T, torch.ones_like(ids_1T)).last_hidden_state[0].float()[len(parts[prompt]) :]
            have_TD = have_ND[offsets[response] : offsets[response] + len(parts[response])]
            assert float((have_TD - want_TD).abs().max()) < 6e-2 * (1 + float(want_TD.abs().max()))
