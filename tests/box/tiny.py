"""Two tiny models with random weights and a preference file: enough to send a run through the whole house in seconds."""

import json
from pathlib import Path

VOCABULARY = 260
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def write_models(folder: Path) -> tuple[Path, Path]:
    """A policy and a reward model in Hugging Face format; every byte is a token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
    }  # fmt: skip
    policy, reward = folder / "tiny-policy", folder / "tiny-reward"
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(policy)
    LlamaForSequenceClassification(LlamaConfig(**shape, num_labels=1)).save_pretrained(reward)
    tokenizer = byte_tokenizer()
    for place in (policy, reward):
        tokenizer.save_pretrained(place)
    return policy, reward


def byte_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<end>", "<unknown>", "<unused>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>", model_max_length=256
    )
    fast.chat_template = TEMPLATE
    return fast


def write_pairs(path: Path, num_pairs: int = 40) -> Path:
    """Pairs whose chosen response thanks and whose rejected one grumbles."""
    rows = [
        {
            "prompt": f"My parcel number {number} has not come. What now?",
            "chosen": f"Thank you for asking about {number}; I look it up at once.",
            "rejected": f"No idea about {number}, wait longer.",
        }
        for number in range(num_pairs)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
