"""Causal language models of many families, each a few thousand random weights, by the name of its family."""

from collections.abc import Callable
from typing import Any

import torch
import transformers

WIDE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
GROUPED: dict[str, Any] = {**WIDE, "num_key_value_heads": 2, "max_position_embeddings": 256}
HEADED: dict[str, Any] = {**GROUPED, "head_dim": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**GROUPED, "tie_word_embeddings": True}),
    "mistral": ("Mistral", GROUPED),
    "qwen2": ("Qwen2", {**GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", HEADED),
    "gemma2": ("Gemma2", HEADED),
    "gemma3": ("Gemma3", {**HEADED, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}),
    "phi3": ("Phi3", GROUPED),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "gpt_neox": ("GPTNeoX", {**WIDE, "max_position_embeddings": 256}),
    "opt": ("OPT", {**{key: WIDE[key] for key in WIDE if key != "intermediate_size"}, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "mixtral": ("Mixtral", {**GROUPED, "num_local_experts": 4}),
    "qwen3_moe": ("Qwen3Moe", {**HEADED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
    "gpt_oss": ("GptOss", {**HEADED, "num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": ["full_attention"] * 2}),
    "cohere": ("Cohere", {**GROUPED, "tie_word_embeddings": True, "logit_scale": 0.25}),
    "granite": ("Granite", {**GROUPED, "logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5}),
    "deepseek_v3": ("DeepseekV3", {
        **GROUPED, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8, "v_head_dim": 8,
    }),
}  # fmt: skip
CLASSES = {"Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"), "GPT2": ("GPT2Config", "GPT2LMHeadModel")}


def build_family(name: str, vocab_size: int, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Return a network of this family with seeded random weights; `changes` are of its configuration."""
    stem, shape = FAMILIES[name]
    config_name, class_name = CLASSES.get(stem, (f"{stem}Config", f"{stem}ForCausalLM"))
    torch.manual_seed(7)
    make: Callable[..., Any] = getattr(transformers, config_name)
    ids = {"vocab_size": vocab_size, "eos_token_id": 0, "bos_token_id": None, "pad_token_id": 1}
    return getattr(transformers, class_name)(make(**ids, initializer_range=0.2, **{**shape, **changes})).to(dtype)
