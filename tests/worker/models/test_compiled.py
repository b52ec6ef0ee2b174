"""torch.compile on a small network, with a C++ compiler and without."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch._inductor.config as inductor

from tests.worker.workshop import Workshop, read_events
from worker.models.compiled import compile_layers, uncompiled
from worker.models.load import load_policy
from worker.models.packed import Packing

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile needs a C++ compiler on a CPU, and there is none"
)


@pytest.fixture
def model(workshop: Workshop):
    """With one layer, to be quick."""
    loaded = load_policy(workshop.policy(), dtype="float32", device="cpu").language_model
    del loaded.network.model.layers[1]
    loaded.config.num_hidden_layers = 1
    return loaded


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No pool of compiling processes, whose start takes longer than these compilations, and no cache of earlier ones."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    with inductor.patch(compile_threads=1):
        yield


@needs_compiler
def test_compiled_layers_give_the_same_numbers_padded_and_packed(model) -> None:
    packing = Packing([[5, 3, 6], [4, 7]])
    ids_N = torch.arange(sum(packing.sizes)) % 300
    want = model.run_packed(ids_N, packing).detach()
    told: list[str] = []
    compiled = compile_layers(model, told.append)
    assert compiled.is_compiled, told
    assert told == ["torch.compile: 1 layer."]
    have = compiled.run_packed(ids_N, packing).detach()
    assert float((have - want).abs().max()) < 1e-4
    with uncompiled(compiled):
        assert float((compiled.run_packed(ids_N, packing).detach() - want).abs().max()) < 1e-6


def test_without_a_compiler_the_run_goes_on_and_says_why(workshop: Workshop, run: Callable[[Path], int]) -> None:
    folder = workshop.attempt(policy_settings={"compile": True}, training={"steps": 2}, evaluation={"num_prompts": 0})
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert run(folder) == 0
    logs = [event["payload"]["text"] for event in read_events(folder, "log")]
    assert any(text.startswith("torch.compile fails here, so the run goes on without it:") for text in logs)
