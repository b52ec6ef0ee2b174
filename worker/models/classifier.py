"""A reward model made from a policy: its body under a fresh head of one output, as Hugging Face's sequence classifiers are built.

Decoder classifiers read the score at the last token that is not padding; worker.models.reward loads what is saved here.
Legend: R rows, T tokens, D hidden size.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from app.domain.errors import ModelInvalid
from worker.models.adapter import Body, adapt_body
from worker.models.load import switch_dropout_off


def build_classifier(policy: Any, tokenizer: Any, seed: int) -> Body:
    """Return a sequence classifier with the policy's own body (not a copy) and a seeded head; raises ModelInvalid.

    The pad token is the tokenizer's; where it has none, the end of text is made one in the configuration and in the tokenizer.
    """
    config = type(policy.config).from_dict(policy.config.to_dict())
    config.num_labels = 1
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    config.get_text_config().pad_token_id = tokenizer.pad_token_id
    try:
        with torch.device("meta"):  # the body comes from the policy
            network = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise ModelInvalid(f"A reward model can't be made from {type(policy).__name__}: no classifier of it is known.") from error
    if type(network.base_model) is not type(policy.base_model):
        raise ModelInvalid(
            f"A reward model can't be made from {type(policy).__name__}: {type(network).__name__} has another body."
        )
    setattr(network, network.base_model_prefix, policy.base_model)
    _start_head(network, policy.dtype, policy.device, seed)
    switch_dropout_off(network)
    network.eval()
    return adapt_body(network)


def _start_head(network: Any, dtype: torch.dtype, device: torch.device, seed: int) -> None:
    """Every weight above the body: normal with deviation 1/√(D + 1), so that first rewards are of the size of 1; biases are 0."""
    body = {id(parameter) for parameter in network.base_model.parameters()}
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in body:
                continue
            value = torch.zeros(parameter.shape)
            if parameter.ndim > 1:
                value.normal_(std=1 / math.sqrt(parameter.shape[-1] + 1), generator=generator)
            setattr(module, name, nn.Parameter(value.to(device=device, dtype=dtype)))


def classify(model: Body, rows: Sequence[Sequence[int]]) -> Tensor:
    """Scores of rows of ids, padded on the right: [R] float32, differentiable."""
    pad, width = pad_id(model, rows), max(len(row) for row in rows)
    ids_RT = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=model.device)
    mask_RT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
    logits: Tensor = model.network(input_ids=ids_RT, attention_mask=mask_RT).logits
    return logits[:, 0].float()


def pad_id(model: Body, rows: Sequence[Sequence[int]]) -> int:
    """Return what the model takes for padding; raises ModelInvalid when rows must be padded and it takes nothing for that."""
    declared: int | None = model.config.get_text_config().pad_token_id
    if declared is None and len({len(row) for row in rows}) > 1:
        raise ModelInvalid("The policy's tokenizer has no pad token and no end-of-text token: give it one in its folder.")
    return declared or 0
