"""The help desk's two tiny models, trained from nothing: a Llama-style policy that has heard every style, and a reward model.

Shapes: B texts, T tokens (padded on the right), D hidden, V vocabulary, N predicted positions of the whole batch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple, TypeVar

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from worker.demonstration.data import Pair, drop_slots
from worker.demonstration.sentences import DEADLINES, EVENTS, PRODUCTS, REPAIRS, list_sentences
from worker.var.logprobs import weighted_nll

CONTEXT = 128
GRAD_CLIP = 1.0
INITIAL_DEVIATION = 0.08  # of the weights; with the usual 0.02 a body this narrow takes twice as long to learn to copy
FITTING_EMPHASIS = 8.0  # how much more, at first, the words count that make an answer fit its prompt: rare and hard to learn
Item = TypeVar("Item")
Report = Callable[[int, int, float], None]  # steps done, of how many, loss


class Size(NamedTuple):
    """How large a body is."""

    hidden: int = 96
    layers: int = 4
    heads: int = 4
    feed_forward: int = 256


BODY = Size()


class Plan(NamedTuple):
    """How long and how fast a model is trained."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 10


class Tokenized(NamedTuple):
    """A conversation as token ids; the answer, with its end, starts at `start`."""

    ids: list[int]
    start: int


def encode_turns(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> Tokenized:
    """Prompt and answer by the tokenizer's chat template."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    head = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    return Tokenized(ids, len(tokenizer(head, add_special_tokens=False)["input_ids"]))


def _config(tokenizer: PreTrainedTokenizerFast, size: Size) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        intermediate_size=size.feed_forward,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=INITIAL_DEVIATION,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        num_labels=1,
    )


def build_policy(tokenizer: PreTrainedTokenizerFast, size: Size, seed: int) -> LlamaForCausalLM:
    """Return an untrained policy; the seed decides its first weights."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(_config(tokenizer, size))


def build_reward(tokenizer: PreTrainedTokenizerFast, size: Size, seed: int) -> LlamaForSequenceClassification:
    """Return an untrained reward model with the policy's body and one number as its output."""
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(_config(tokenizer, size))


def pad(rows: Sequence[Tokenized], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids_BT and mask_BT (1 at tokens, 0 at padding)."""
    length = max(len(row.ids) for row in rows)
    ids_BT = torch.tensor([row.ids + [pad_id] * (length - len(row.ids)) for row in rows])
    mask_BT = torch.tensor([[1] * len(row.ids) + [0] * (length - len(row.ids)) for row in rows])
    return ids_BT, mask_BT


def emphasise_fitting(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """emphasis_V: `FITTING_EMPHASIS` for words that only products, events, deadlines and repair steps hold, 1 for all others."""
    emphasis_V = torch.ones(len(tokenizer))
    repairs = [text for texts in REPAIRS.values() for text in texts]
    everywhere = [sentence.text for sentence in list_sentences() if not sentence.problem]
    for texts, value in (((*PRODUCTS, *EVENTS, *DEADLINES, *repairs), FITTING_EMPHASIS), (everywhere, 1.0)):
        for text in texts:
            emphasis_V[tokenizer(drop_slots(text), add_special_tokens=False)["input_ids"]] = value
    return emphasis_V


def answer_loss(policy: LlamaForCausalLM, rows: Sequence[Tokenized], pad_id: int, emphasis_V: torch.Tensor) -> torch.Tensor:
    """Mean −log π(token) over the tokens of the answers, weighted by `emphasis_V`: the studio's own loss, before any reward."""
    ids_BT, mask_BT = pad(rows, pad_id)
    hidden_BTD = policy.model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    wanted_BT = torch.zeros_like(mask_BT, dtype=torch.bool)
    for index, row in enumerate(rows):
        wanted_BT[index, row.start - 1 : len(row.ids) - 1] = True  # a position predicts its successor
    target_N = ids_BT.roll(-1, dims=1)[wanted_BT]
    coefficient_N = emphasis_V[target_N] / emphasis_V[target_N].sum()
    loss, _ = weighted_nll(hidden_BTD[wanted_BT], policy.lm_head.weight, target_N, coefficient_N)
    return loss


def preference_loss(
    reward: LlamaForSequenceClassification, pairs: Sequence[tuple[Tokenized, Tokenized]], pad_id: int
) -> torch.Tensor:
    """Bradley-Terry: mean −log σ(r(chosen) − r(rejected))."""
    chosen_B, rejected_B = score_pairs(reward, pairs, pad_id)
    return -functional.logsigmoid(chosen_B - rejected_B).mean()


def score_pairs(
    reward: LlamaForSequenceClassification, pairs: Sequence[tuple[Tokenized, Tokenized]], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards of the chosen and of the rejected answers, each [B]."""
    ids_BT, mask_BT = pad([row for pair in pairs for row in pair], pad_id)
    reward_B = reward(input_ids=ids_BT, attention_mask=mask_BT).logits[:, 0]
    return reward_B[0::2], reward_B[1::2]


@torch.no_grad()
def pair_accuracy(reward: LlamaForSequenceClassification, pairs: Sequence[tuple[Tokenized, Tokenized]], pad_id: int) -> float:
    """Share of pairs whose chosen answer gets the higher reward."""
    reward.eval()
    hits = 0
    for start in range(0, len(pairs), 64):
        chosen_B, rejected_B = score_pairs(reward, pairs[start : start + 64], pad_id)
        hits += int((chosen_B > rejected_B).sum())
    return hits / len(pairs)


def train_policy(
    tokenizer: PreTrainedTokenizerFast, answers: Sequence[tuple[str, str]], seed: int, report: Report, size: Size = BODY
) -> LlamaForCausalLM:
    """Return a policy that has read each (prompt, answer) once."""
    policy = build_policy(tokenizer, size, seed)
    rows = [encode_turns(tokenizer, *answer) for answer in answers]
    emphasis_V = emphasise_fitting(tokenizer)
    plan = Plan(steps=len(rows) // 8, batch_size=8, learning_rate=3e-3)

    def loss_of(batch: list[Tokenized], share_done: float) -> torch.Tensor:
        # The emphasis fades, since in the end it would make the model say the emphasised words too often.
        return answer_loss(policy, batch, tokenizer.pad_token_id, emphasis_V ** (1 - share_done))

    train(policy, loss_of, rows, plan, seed, report)
    return policy


def train_reward(
    tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair], seed: int, report: Report, size: Size = BODY
) -> LlamaForSequenceClassification:
    """Return a reward model that has read each pair once."""
    reward = build_reward(tokenizer, size, seed)
    rows = encode_pairs(tokenizer, pairs)
    plan = Plan(steps=len(rows) // 16, batch_size=16, learning_rate=2e-3)
    train(reward, lambda batch, _: preference_loss(reward, batch, tokenizer.pad_token_id), rows, plan, seed, report)
    return reward


def draw_batches(items: Sequence[Item], plan: Plan, seed: int) -> Iterator[list[Item]]:
    """`plan.steps` batches, each item once per pass, in another order each time."""
    random = Random(seed)
    waiting: list[Item] = []
    for _ in range(plan.steps):
        while len(waiting) < plan.batch_size:
            waiting += random.sample(items, len(items))
        yield waiting[: plan.batch_size]
        del waiting[: plan.batch_size]


def train(
    model: torch.nn.Module,
    loss_of: Callable[[list[Item], float], torch.Tensor],
    items: Sequence[Item],
    plan: Plan,
    seed: int,
    report: Report,
) -> list[float]:
    """AdamW with warm-up and a cosine to a tenth of the peak; `loss_of` gets a batch and the share of the training done.

    Returns the losses of all steps.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    losses = []
    model.train()
    for step, batch in enumerate(draw_batches(items, plan, seed)):
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * rate_at(step, plan)
        loss = loss_of(batch, step / plan.steps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        report(step + 1, plan.steps, losses[-1])
    return losses


def rate_at(step: int, plan: Plan) -> float:
    """Share of the peak learning rate: a linear rise, then a cosine down to 0.1."""
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    share = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    return 0.55 + 0.45 * math.cos(math.pi * share)


def encode_pairs(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair]) -> list[tuple[Tokenized, Tokenized]]:
    """(chosen, rejected) of each pair as token ids."""
    return [
        (encode_turns(tokenizer, pair.prompt, pair.chosen), encode_turns(tokenizer, pair.prompt, pair.rejected)) for pair in pairs
    ]
