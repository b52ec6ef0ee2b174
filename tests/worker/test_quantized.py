"""QLoRA: a run in 4 bits from end to end, and a merged artifact that is the policy which was trained."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from app.domain.errors import RecipeInvalid
from tests.worker.families import build_family
from tests.worker.workshop import Workshop, make_tokenizer, read_events
from worker.models import quantize
from worker.models.load import load_policy

SETTINGS = {"adaptation": "lora", "quantization": "nf4", "lora": {"rank": 4}}
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: pip install -e '.[quantized]'"
)


@needs_package
def test_a_run_in_4_bits_ends_in_a_plain_model_that_is_the_trained_one(workshop: Workshop, run: Callable[[Path], int]) -> None:
    folder = workshop.attempt(policy_settings=SETTINGS, training={"epochs": 3})
    assert run(folder) == 0
    losses = [event["payload"]["metrics"]["loss"] for event in read_events(folder, "step")]
    assert losses[-1] < losses[0]
    artifacts = folder.parents[1] / "artifacts"
    assert "quantization_config" not in json.loads((artifacts / "model" / "config.json").read_text())
    merged = AutoModelForCausalLM.from_pretrained(artifacts / "model")
    trained = load_policy(workshop.policy(), dtype="float32", device="cpu", quantization="nf4").language_model
    assert quantize.is_quantized(trained.network.model.layers[0].mlp.up_proj)
    adapted = PeftModel.from_pretrained(trained.network, artifacts / "adapter")
    ids = torch.arange(30)[None]
    with torch.inference_mode():
        have, want, start = merged(input_ids=ids).logits, adapted(input_ids=ids).logits, None
        with adapted.disable_adapter():
            start = adapted(input_ids=ids).logits
    assert float((have - want).abs().max()) < 1e-3 * float(want.abs().max())
    assert float((start - want).abs().max()) > 1e-2 * float(want.abs().max())


@needs_package
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])  # whose layers stand the other way round
def test_what_was_trained_over_4_bits_comes_back_as_plain_layers_of_the_family(
    name: str, dtype: str, workshop: Workshop, run: Callable[[Path], int]
) -> None:
    base = workshop.root / f"quantized-{name}"
    if not base.exists():
        tokenizer = make_tokenizer(chat=True)
        build_family(name, len(tokenizer) + 8).save_pretrained(base)
        tokenizer.save_pretrained(base)
    folder = workshop.attempt(policy=base, policy_settings={**SETTINGS, "dtype": dtype}, training={"steps": 3})
    assert run(folder) == 0, read_events(folder, "outcome")
    merged = load_file(folder.parents[1] / "artifacts" / "model" / "model.safetensors")
    assert {key: weight.shape for key, weight in merged.items()} == {
        key: weight.shape for key, weight in load_file(base / "model.safetensors").items()
    }
    assert any("is the trained model" in event["payload"]["text"] for event in read_events(folder, "log"))


@needs_package
def test_weights_in_4_bits_have_scores_of_their_own(workshop: Workshop, run: Callable[[Path], int], tmp_path: Path) -> None:
    plain = workshop.attempt(policy_settings={**SETTINGS, "quantization": "none"}, scorings=tmp_path, training={"steps": 1})
    quantized = workshop.attempt(policy_settings=SETTINGS, scorings=tmp_path, training={"steps": 1})
    assert (run(plain), run(quantized)) == (0, 0)
    keys = {read_events(folder, "scoring")[0]["payload"]["scoring"]["logprob"]["key"] for folder in (plain, quantized)}
    assert len(keys) == 2


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, workshop: Workshop) -> None:
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    with pytest.raises(RecipeInvalid, match=r"-m pip install bitsandbytes") as caught:
        load_policy(workshop.policy(), dtype="float32", device="cpu", quantization="nf4")
    assert caught.value.problems[0]["field"] == "policy.quantization"
