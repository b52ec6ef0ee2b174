"""Before a run may succeed: is what lies on the disk the model that was trained?

A few held-out examples (of training, where none is held out) are asked of the model in memory before anything is merged or
written, and of every copy as it is read again: log π of each response token, or the reward of each conversation. What counts is
the mean |difference|, in nats per token or in points of the reward; like is compared with like, in the same number type:

    float32    1e-4: other orders of summation move log π by 1e-6, a merged adapter by less than 1e-5
    16 bits    0.05: the same weights in the same layout give the same numbers; another order of summation moves log π by 0.02

Training may move log π by less than 0.05. So in 16 bits a tenth of what it has moved is the bound, where that is less: a copy of
the base is refused. Not so on another device than training's, where other orders of summation may hide so small a step.

Across number types no such bound holds: at 16 bits the logits themselves stand up to 0.06 apart. So an adapter that was trained
in 16 bits or over 4 is compared once as it was trained, and its merged weights with the unmerged ones in float32. A fault of
substance, such as an adapter merged into a weight that the head shares, or a layer left out, moves log π by tenths and more.
Measured: docs/log.md.

All of this asks by ids. That the saved tokenizer and its template make the same of a conversation is compared for one of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.domain.errors import ModelInvalid
from worker.models.adapter import Body, LanguageModel
from worker.models.load import load_tokenizer
from worker.models.padding import group_rows
from worker.models.prompts import Conversation, PromptFormat
from worker.models.template import PromptRefused
from worker.stages.attempt import AttemptContext
from worker.stages.batches import collate
from worker.stages.examples import Encoded
from worker.stages.prepare import Ground
from worker.stages.training.gradients import TextBatch
from worker.stages.training.reward_model import score_rows
from worker.var.logprobs import token_logprobs

EXACT, NARROW = 1e-4, 0.05
MOST_LOST = 0.1  # of what training has changed
REMEDY = (
    "Leave policy.lora.target_modules at all-linear, or train with policy.dtype float32 and policy.adaptation full; "
    "and report the model's architecture."
)
MOST_RESPONSES, MOST_TOKENS = 16, 2048  # of the batch; one response there is, however long

Ids = Sequence[int]


@dataclass(frozen=True)
class Yardstick:
    """What the trained model said of the batch: `want_N`, of which number n belongs to the example `owners[n]`."""

    ask: Callable[[Any], Tensor]
    want_N: Tensor
    owners: list[int]
    what: str
    unit: str

    def measure(self, have_N: Tensor) -> float:
        """Return the mean |difference| of other answers."""
        return float((have_N - self.want_N).abs().mean())

    def judge(self, have_N: Tensor, what: str, bound: float) -> float:
        """Return the mean |difference| of a copy's answers; raises ModelInvalid when it is above the bound."""
        mean = self.measure(have_N)
        if not mean <= bound:  # nor is a number that is not finite
            difference_N = (have_N - self.want_N).abs().nan_to_num(float("inf"))
            worst = int(difference_N.argmax())
            raise ModelInvalid(
                f"What was saved is not what was trained: {what}, read again, differs from the model in memory by {mean:.2g} "
                f"{self.unit} on average over {len(have_N)} {self.what} (at most by {float(difference_N[worst]):.2g}, in "
                f"example {self.owners[worst]}), where {bound:.2g} is allowed. No model is kept, but the checkpoints are. "
                f"{REMEDY}"
            )
        return mean


def bound_of(dtype: torch.dtype, learned: float = math.inf) -> float:
    """Return the largest mean |difference| of two copies in this number type, where training has made one of `learned`."""
    return EXACT if is_exact(dtype) else min(NARROW, MOST_LOST * learned)


def is_exact(dtype: torch.dtype) -> bool:
    return dtype.itemsize >= torch.float32.itemsize


def choose_examples(ground: Ground) -> list[Encoded]:
    """Return the first held-out examples, of training where there are none, that fit one small batch; one at least."""
    chosen: list[Encoded] = []
    num_responses = num_tokens = 0
    for example in islice(ground.prepared.held_out or ground.prepared.train, MOST_RESPONSES):
        num_responses += len(example.responses)
        num_tokens += sum(len(example.prompt_ids) + len(response.ids) for response in example.responses)
        if chosen and (num_responses > MOST_RESPONSES or num_tokens > MOST_TOKENS):
            break
        chosen.append(example)
    return chosen


def compare_policy(model: LanguageModel, examples: Sequence[Encoded]) -> Yardstick:
    """Ask the trained policy, as it is in memory, for log π of the examples' response tokens.

    Of a sharded policy, every process must call this.
    """
    pairs = [(e.prompt_ids, response.ids) for e in examples for response in e.responses][:MOST_RESPONSES]
    groups = group_rows([len(prompt) + len(response) for prompt, response in pairs], MOST_TOKENS)
    ids = [e.example_id for e in examples for _ in e.responses]
    owners = [ids[k] for group in groups for k in group for _ in pairs[k][1]]

    def ask(network: Any) -> Tensor:
        asked = model if network is model.network else LanguageModel(network, network.base_model, False, False)
        return torch.cat([_ask_rows(asked, [pairs[k] for k in group]) for group in groups])

    want_N = ask(model.network)
    if model.is_sharded:
        model.network.reshard()
    return Yardstick(ask, want_N, owners, "tokens of responses", "nats")


def compare_reward_model(model: Body, batch: TextBatch, attempt: AttemptContext) -> Yardstick:
    """Ask the trained reward model, as it is in memory, for its rewards of the batch's conversations."""
    rows = batch.ids[:MOST_RESPONSES]

    def ask(network: Any) -> Tensor:
        return score_rows(model if network is model.network else Body(network, network.base_model, False, False), rows, attempt)

    return Yardstick(ask, ask(model.network), batch.prompt_M.tolist(), "conversations", "points")


def compare_tokenizer(prompt_format: PromptFormat, path: Path, example: Encoded) -> None:
    """Raise ModelInvalid when the tokenizer of `model/`, at `path`, makes other ids of a conversation than the one in memory."""
    saved = PromptFormat.choose(load_tokenizer(path), "auto" if prompt_format.chat else "plain", prompt_format.day)
    conversation = Conversation(example.turns, example.responses[0].as_turn(), example.tools)
    if _encode(saved, conversation) != _encode(prompt_format, conversation):
        raise ModelInvalid(
            f"What was saved is not what was trained: the tokenizer in model/, read again, writes example "
            f"{example.example_id} as other tokens than the one in memory. No model is kept, but the checkpoints are. Load and "
            "save the base's tokenizer once with transformers, compare what it writes, and report the model's architecture."
        )


def _encode(prompt_format: PromptFormat, conversation: Conversation) -> list[list[int]]:
    """Return the conversation's ids; none where it is refused."""
    try:
        return prompt_format.encode_conversations([conversation])
    except PromptRefused:
        return []


@torch.no_grad()
def _ask_rows(model: LanguageModel, pairs: Sequence[tuple[Ids, Ids]]) -> Tensor:
    was_training = model.network.training
    model.network.eval()
    rows = collate(pairs).to(model.device)
    hidden_ND = model.run(rows.ids_RT, rows.mask_RT).last_hidden_state.flatten(0, 1)[rows.place_N]
    head = model.head  # after the body has run: the head of a sharded policy is whole from then on
    logprob_N = token_logprobs(hidden_ND, head.weight_VD, rows.target_N, **head.options()).double().cpu()
    model.network.train(was_training)
    return logprob_N
