import pytest
import torch
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from app.domain.errors import ModelInvalid
from tests.worker.workshop import build_network
from worker.models.adapter import adapt

SHAPE = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
BODY = {**SHAPE, "num_key_value_heads": 1, "intermediate_size": 32, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def networks():
    torch.manual_seed(0)
    return [
        Gemma2ForCausalLM(Gemma2Config(**BODY, head_dim=8, final_logit_softcapping=2.0)),
        Cohere2ForCausalLM(Cohere2Config(**BODY, logit_scale=0.25)),
        GraniteForCausalLM(GraniteConfig(**BODY, logits_scaling=4.0)),
        OPTForCausalLM(OPTConfig(**SHAPE, ffn_dim=32, word_embed_proj_dim=8, max_position_embeddings=64)),
    ]


@pytest.mark.parametrize("network", networks(), ids=lambda network: type(network).__name__)
def test_the_head_taken_apart_gives_the_models_own_logits(network):
    model = adapt(network.eval())
    ids = torch.randint(50, (3, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    have = model.head.logits(model.run(ids, mask).last_hidden_state)
    torch.testing.assert_close(have, network(input_ids=ids, attention_mask=mask).logits, rtol=1e-4, atol=1e-5)
    assert model.shares_prefix


def test_an_architecture_whose_logits_are_made_otherwise_is_refused_with_a_sentence():
    network = LlamaForCausalLM(LlamaConfig(**BODY)).eval()
    network.config.final_logit_softcapping = 0.5  # declared, but this architecture doesn't apply it
    with pytest.raises(ModelInvalid, match="makes its logits in a way the studio does not know"):
        adapt(network)


def test_damaged_weights_are_told_from_an_unknown_architecture():
    network = LlamaForCausalLM(LlamaConfig(**BODY)).eval()
    network.model.layers[1].mlp.up_proj.weight.data[3, 4] = torch.nan
    with pytest.raises(ModelInvalid, match=r"numbers that are not finite \(model.layers.1.mlp.up_proj.weight\).*another copy"):
        adapt(network)


def test_finite_weights_that_overflow_are_told_as_such():
    network = LlamaForCausalLM(LlamaConfig(**BODY)).eval()
    network.lm_head.weight.data.fill_(3e38)
    with pytest.raises(ModelInvalid, match="gives numbers that are not finite in float32"):
        adapt(network)


def test_a_recurrent_model_is_run_without_shared_prefixes():
    torch.manual_seed(0)
    network = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4))
    assert not adapt(network.eval()).shares_prefix


def test_rows_are_packed_only_where_the_numbers_stay_the_same():
    """Plain causal attention with positions is; windows, capped scores and recurrence are not."""
    torch.manual_seed(0)
    plain = (LlamaForCausalLM(LlamaConfig(**BODY)), GraniteForCausalLM(GraniteConfig(**BODY, logits_scaling=4.0)))
    other = (
        Gemma2ForCausalLM(Gemma2Config(**BODY, head_dim=8)),
        MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4)),
    )
    assert [adapt(network.eval()).packs for network in (*plain, *other)] == [True, True, False, False]
    assert {network.config._attn_implementation for network in plain} == {"sdpa"}


@pytest.mark.parametrize("number", [3, 4, 5, 6])
def test_memory_that_ran_out_while_a_network_is_probed_is_not_taken_for_its_nature(number):
    """The head's check takes two passes of the body; then come those of the shared beginning and of packed rows."""
    network = build_network("llama", 40).eval()
    calls = iter(range(1, 100))

    def run_out(_module, _inputs):
        if next(calls) == number:
            raise torch.OutOfMemoryError("out of memory")

    network.base_model.register_forward_pre_hook(run_out)
    with pytest.raises(torch.OutOfMemoryError):
        adapt(network)
