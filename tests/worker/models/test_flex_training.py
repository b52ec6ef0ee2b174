"""FlexAttention for packed rows in training: uncompiled on a CPU, it gives what attention part by part gives."""

import pytest
import torch

from tests.worker.workshop import Workshop
from worker.models import adapter
from worker.models.adapter import find_flex_fault
from worker.models.load import load_policy


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_hidden_states_agree(kind: str, workshop: Workshop) -> None:
    model = load_policy(workshop.policy(kind), dtype="float32", device="cpu").language_model
    assert model.packs
    assert not model.flexes  # uncompiled it is slow: only a GPU uses it
    assert not find_flex_fault(model)
    assert model.network.get_input_embeddings().weight.grad is None


def test_a_kernel_that_is_wrong_or_fails_is_not_used(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_policy(workshop.policy(), dtype="float32", device="cpu").language_model
    real = adapter.run_flex
    monkeypatch.setattr(adapter, "run_flex", lambda *told: real(*told) * 1.1)
    assert "numbers differ" in find_flex_fault(model)

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(adapter, "run_flex", fail)
    assert find_flex_fault(model) == "its kernel fails (no kernel)."
    assert model.network.get_input_embeddings().weight.requires_grad


def test_a_fault_of_the_comparison_itself_is_not_swallowed(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_policy(workshop.policy(), dtype="float32", device="cpu").language_model

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(adapter, "run_packed", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        find_flex_fault(model)
