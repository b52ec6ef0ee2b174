"""Which weights get an adapter, which don't, and what is said of it."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from app.domain.errors import RecipeInvalid
from app.domain.recipe import LoraSettings
from tests.worker.families import build_family
from tests.worker.models.test_adapter import BODY
from worker.models.adapter import adapt
from worker.models.lora import add_lora, find_unadapted, put_adapter, refuse_targets

ALL = LoraSettings(rank=2)


def test_lora_trains_the_adapter_only_and_keeps_the_reference_inside():
    torch.manual_seed(0)
    model = adapt(LlamaForCausalLM(LlamaConfig(**BODY)).eval())
    ids, mask = torch.arange(8)[None], torch.ones(1, 8, dtype=torch.long)
    before = model.run(ids, mask).last_hidden_state
    model = add_lora(model, LoraSettings(rank=2), seed=3)
    trainable = {name: p for name, p in model.network.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    with torch.no_grad():
        for parameter in trainable.values():
            parameter.add_(0.1)
    assert (model.run(ids, mask).last_hidden_state - before).abs().max() > 1e-3
    with model.as_reference() as reference:
        assert torch.equal(reference.run(ids, mask).last_hidden_state, before)


def test_the_same_seed_gives_the_same_adapter():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = add_lora(adapt(LlamaForCausalLM(LlamaConfig(**BODY)).eval()), LoraSettings(rank=2), seed)
        return torch.cat([p.flatten() for p in model.network.parameters() if p.requires_grad])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_lora_on_unknown_modules_or_on_the_head_names_the_field():
    network = LlamaForCausalLM(LlamaConfig(**BODY)).eval()
    with pytest.raises(RecipeInvalid) as unknown:
        add_lora(adapt(network), LoraSettings(target_modules=["query_key"]), 0)
    assert unknown.value.problems[0]["field"] == "policy.lora.target_modules"
    network = LlamaForCausalLM(LlamaConfig(**BODY)).eval()
    with pytest.raises(RecipeInvalid, match="head can't carry an adapter"):
        add_lora(adapt(network), LoraSettings(target_modules=["lm_head"]), 0)


def names(network) -> list[str]:
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def test_experts_that_all_linear_leaves_out_are_told_with_the_names_to_add():
    network = build_family("gpt_oss", 50)
    put_adapter(network, ALL)
    (finding,) = find_unadapted(network, ALL)
    assert finding.evidence.startswith(
        "With all-linear, the experts' fused weights (experts.down_proj, experts.gate_up_proj) get"
    )
    assert finding.remedy == (
        "To train them too, set policy.lora.target_modules to all-linear, experts.down_proj, experts.gate_up_proj."
    )
    asked = LoraSettings(rank=2, target_modules=["all-linear", "experts.down_proj", "experts.gate_up_proj"])
    whole = build_family("gpt_oss", 50)
    put_adapter(whole, asked)
    assert len(names(whole)) > len(names(network))
    assert find_unadapted(whole, ALL) == []


def test_layers_that_share_a_name_with_experts_and_get_no_adapter_are_told():
    """peft takes this family's experts by the names that they had as layers, and so passes over dense layers of that name."""
    network = build_family("qwen3_moe", 50, mlp_only_layers=[0])
    put_adapter(network, ALL)
    (finding,) = find_unadapted(network, ALL)
    assert "(mlp.down_proj, mlp.gate_proj, mlp.up_proj) get no adapter" in finding.evidence
    assert finding.remedy == "No name puts an adapter there: to train them too, set policy.adaptation to full."


@pytest.mark.parametrize("targets", [["q_proj", "up_proj", "gate_proj"], ["all-linear", "mlp.up_proj"]])
def test_a_name_that_was_asked_for_and_got_no_adapter_is_told(targets):
    network, asked = build_family("qwen3_moe", 50, mlp_only_layers=[0]), LoraSettings(rank=2, target_modules=targets)
    put_adapter(network, asked)
    (finding,) = find_unadapted(network, asked)
    assert finding.evidence.startswith(f"With {', '.join(targets)}, layers that have the names of its experts (mlp.")
    assert "mlp.up_proj" in finding.evidence


def test_fused_experts_are_told_where_other_names_stand_beside_all_linear():
    network, asked = build_family("gpt_oss", 50), LoraSettings(rank=2, target_modules=["all-linear", "embed_tokens"])
    put_adapter(network, asked)
    (finding,) = find_unadapted(network, asked)
    assert finding.changes[0].value == ["all-linear", "embed_tokens", "experts.down_proj", "experts.gate_up_proj"]


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mixtral"])
def test_nothing_is_told_where_every_layer_has_its_adapter(name):
    network = build_family(name, 50)
    put_adapter(network, ALL)
    assert find_unadapted(network, ALL) == []


def test_all_linear_stands_beside_other_modules():
    network = build_family("llama", 50)
    put_adapter(network, LoraSettings(rank=2, target_modules=["all-linear", "embed_tokens"]))
    found = names(network)
    assert any("embed_tokens" in name for name in found)
    assert any("down_proj" in name for name in found)
    assert not any("lm_head" in name for name in found)


REFUSED = [
    ({"target_modules": ["query_key", "q_proj"]}, "target_modules", "on query_key: the policy has no such layer. It has k_proj"),
    ({"target_modules": ["lm_head"]}, "target_modules", "The language-model head can't carry an adapter"),
    ({"target_modules": ["input_layernorm"]}, "target_modules", "can't be put on these modules: .*GptOssRMSNorm"),
    ({"target_modules": ["experts.down_proj"], "dropout": 0.1}, "dropout", "Fused experts can't have LoRA dropout"),
]


@pytest.mark.parametrize(("settings", "field", "sentence"), REFUSED)
def test_what_cannot_carry_an_adapter_is_refused_without_reading_a_weight(settings, field, sentence, tmp_path: Path):
    build_family("gpt_oss", 50).config.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    with pytest.raises(RecipeInvalid, match=sentence) as caught:
        refuse_targets(tmp_path, LoraSettings(**settings))
    assert caught.value.problems[0]["field"] == f"policy.lora.{field}"
    assert torch.equal(torch.get_rng_state(), before)
    refuse_targets(tmp_path, ALL)
