"""Stage 2: log π_ref(y_j|x_i) and r(x_i, y_j) for the fixed batches, once; every later run with the same content reuses them.

Legend: B prompts, M responses of a batch, R rows (prompt i with response j), N response positions.
"""

import hashlib
import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from app.domain.errors import ModelInvalid
from app.domain.recipe import Recipe, WeightSettings
from worker.models.adapter import LanguageModel
from worker.models.padding import BESIDE_TRAINING, group_rows
from worker.models.prefix import Continued, run_continuations, run_in_chunks
from worker.models.prompts import Conversation
from worker.models.reward import RewardModel
from worker.stages.batches import collate
from worker.stages.examples import Encoded
from worker.var.logprobs import sequence_sums, token_logprobs

NAN = float("nan")
CHUNK = 32  # tokens after which hopeless pairs are dropped


def own_prompts(batch: Sequence[Encoded]) -> Tensor:
    """own_M: the index of each response's prompt."""
    return torch.tensor([i for i, example in enumerate(batch) for _ in example.responses])


def mark_pairs(batch: Sequence[Encoded], *, cross: bool) -> Tensor:
    """Return which pairs are asked for: all of a batch, or each response with its own prompt; bool [B, M]."""
    own_BM = own_prompts(batch) == torch.arange(len(batch))[:, None]
    return torch.ones_like(own_BM) if cross else own_BM


def needs_cross_logprobs(weights: WeightSettings) -> bool:
    """Return whether the weights read log π_ref of other prompts' responses."""
    return weights.partition_scope == "batch" and weights.weight_form != "reward"


def needs_cross_rewards(weights: WeightSettings) -> bool:
    return needs_cross_logprobs(weights) and weights.cross_reward == "score"


def hash_tokens(batches: Sequence[Sequence[Encoded]]) -> "hashlib._Hash":
    """Digest of every id in its place: covers data, tokenizer, template, lengths and batch plan at once."""
    digest = hashlib.sha256()
    for batch in batches:
        for example in batch:
            for ids in (example.prompt_ids, *(response.ids for response in example.responses)):
                digest.update(len(ids).to_bytes(4))
                digest.update(ids.tobytes())
            digest.update(bytes(response.overlap for response in example.responses).rstrip(b"\0"))
            digest.update(b"|")
        digest.update(b"/")
    return digest


def hash_texts(batches: Sequence[Sequence[Encoded]]) -> "hashlib._Hash":
    """Digest of the texts in their places, which is what a reward model with its own tokenizer sees."""
    digest = hashlib.sha256()
    for batch in batches:
        for example in batch:
            asked = (part for turn in example.turns for part in turn[: 2 + bool(turn.fields)])
            answered = (part for r in example.responses for part in (r.content, *filter(None, [r.fields])))
            for text in (*asked, *filter(None, [example.tools]), "", *answered):
                data = text.encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(8))
                digest.update(data)
            digest.update(b"|")
        digest.update(b"/")
    return digest


def describe_plan(batches: Sequence[Sequence[Encoded]], held_out: Sequence[Encoded], recipe: Recipe) -> dict[str, str]:
    """Facts about the scored examples and how they are batched, by the names that reasons of a miss use."""
    scored = [example for batch in batches for example in batch]
    return {
        "data": _hash_examples(scored),
        "pool": _hash_examples([*scored, *held_out]),
        "held_out_share": f"{recipe.evaluation.share:g}",
        "held_out_seed": str(recipe.evaluation.seed),
        "held_out_rule": recipe.evaluation.split,
        "batch_size": str(recipe.training.batch_size),
        "seed": str(recipe.training.seed),
    }


def _hash_examples(examples: Sequence[Encoded]) -> str:
    """Digest of the texts, whatever their order."""
    digest = hashlib.sha256()
    for example in sorted(examples, key=lambda example: example.example_id):
        turns = [turn[: 2 + bool(turn.fields)] for turn in example.turns]
        texts = [example.example_id, turns, [response.content for response in example.responses]]
        digest.update(json.dumps(texts).encode())
    return digest.hexdigest()


def score_rewards(
    model: RewardModel, batch: Sequence[Encoded], wanted_BM: Tensor, check: Callable[[], None] = lambda: None
) -> Tensor:
    """r(x_i, y_j) of the marked pairs as [B, M] float32; NaN elsewhere."""
    answers = [response.as_turn() for example in batch for response in example.responses]
    asked = [Conversation(batch[i].turns, answers[j], batch[i].tools) for i, j in wanted_BM.nonzero().tolist()]
    return torch.full(wanted_BM.shape, NAN).masked_scatter(wanted_BM, torch.tensor(model.score(asked, check)))


def require_finite(score_BM: Tensor, batch: Sequence[Encoded], *, cross: bool, what: str) -> Tensor:
    """Return the scores themselves; raises ModelInvalid when one that was asked for is not a finite number."""
    missing = (mark_pairs(batch, cross=cross) & ~score_BM.isfinite()).nonzero()
    if len(missing):
        example = batch[int(missing[0, 0])]
        raise ModelInvalid(
            f"{what} gives a number that is not finite for the prompt of example {example.example_id}. "
            "Its weights are damaged or overflow: try policy.dtype float32, or another model."
        )
    return score_BM


def read_rewards(recipe: Recipe, batch: Sequence[Encoded]) -> Tensor:
    """Rewards that stand in the data, as [B, M] float32 with NaN for other prompts' responses."""
    own_M = own_prompts(batch)
    column = [
        float((response.rating if recipe.reward.source == "rating" else response.preference) or 0.0)
        for example in batch
        for response in example.responses
    ]
    reward_BM = torch.full((len(batch), len(column)), NAN)
    reward_BM[own_M, torch.arange(len(column))] = torch.tensor(column)
    return reward_BM


@torch.inference_mode()
def score_pairs(
    model: LanguageModel, batch: Sequence[Encoded], wanted_BM: Tensor, check: Callable[[], None] = lambda: None
) -> Tensor:
    """log π_ref(y_j|x_i) of the marked pairs, summed over tokens, as [B, M] float32 on the CPU; NaN elsewhere."""
    logprob_BM = torch.full(wanted_BM.shape, NAN)
    pairs: list[tuple[int, int]] = [(i, j) for i, j in wanted_BM.nonzero().tolist()]
    responses, beginnings, continuations = split_pairs(model, batch, pairs)
    for part in run_continuations(model, beginnings, continuations, check):
        chosen = [pairs[row] for row in part.rows]
        index = torch.tensor(chosen)
        logprob_BM[index[:, 0], index[:, 1]] = _sum_rows(model, part, [responses[j] for _, j in chosen]).cpu().float()
    return logprob_BM


@torch.inference_mode()
def score_until_hopeless(
    model: LanguageModel,
    batch: Sequence[Encoded],
    wanted_BM: Tensor,
    floor_BM: Tensor,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """As score_pairs, but a pair is left off once its sum is below `floor_BM`: its entry is then the sum up to there."""
    if not model.shares_prefix:
        return score_pairs(model, batch, wanted_BM, check)
    sum_BM = torch.full(wanted_BM.shape, NAN, dtype=torch.float64).masked_fill(wanted_BM, 0.0)
    pairs: list[tuple[int, int]] = [(i, j) for i, j in wanted_BM.nonzero().tolist()]
    responses, beginnings, continuations = split_pairs(model, batch, pairs)
    done = [0] * len(pairs)

    def goes_on(part: Continued) -> Tensor:
        chosen = torch.tensor([pairs[row] for row in part.rows])
        i, j = chosen[:, 0], chosen[:, 1]
        nums = part.length_R.tolist()
        tokens = [responses[k][done[row] : done[row] + num] for k, row, num in zip(j.tolist(), part.rows, nums, strict=True)]
        for row, num in zip(part.rows, nums, strict=True):
            done[row] += num
        sum_BM[i, j] += _sum_rows(model, part, tokens).cpu()
        return sum_BM[i, j] >= floor_BM[i, j]

    run_in_chunks(model, beginnings, continuations, CHUNK, goes_on, check)
    return sum_BM.float()


def split_pairs(
    model: LanguageModel, batch: Sequence[Encoded], pairs: Sequence[tuple[int, int]]
) -> tuple[list[Sequence[int]], list[Sequence[int]], list[tuple[int, Sequence[int]]]]:
    """Return the batch's responses, its prompts as beginnings, and the pairs as continuations of them, in their order.

    The prompt's last token goes into the continuation, whose hidden states then predict exactly the response's tokens.
    """
    responses = [response for example in batch for response in example.responses]
    beginnings: list[Sequence[int]] = []
    continuations: list[tuple[int, Sequence[int]]] = []
    known: dict[tuple[int, int], int] = {}
    for i, j in pairs:
        prompt_ids = batch[i].prompt_before(responses[j])
        size = len(prompt_ids) - 1 if model.shares_prefix else 0
        beginning = known.setdefault((i, size), len(beginnings))
        if beginning == len(beginnings):
            beginnings.append(prompt_ids[:size])
        continuations.append((beginning, [*prompt_ids[size:], *responses[j].ids[:-1]]))
    return [response.ids for response in responses], beginnings, continuations


def _sum_rows(model: LanguageModel, part: Continued, responses: Sequence[Sequence[int]]) -> Tensor:
    """Σ_t log π_ref(y_t|…) of each row: [R], added up in float64, as sums reach thousands and their differences count."""
    num_R = torch.tensor([len(response) for response in responses], device=model.device)
    target_N = torch.tensor([token for response in responses for token in response], device=model.device)
    owner_N = torch.arange(len(responses), device=model.device).repeat_interleave(num_R)
    head = model.head
    logprob_N = token_logprobs(part.hidden_RTD[part.last(num_R)], head.weight_VD, target_N, **head.options())
    return sequence_sums(logprob_N.double(), owner_N, len(responses))


@torch.inference_mode()
def sequence_logprobs(
    model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], temperature: float = 1.0
) -> Tensor:
    """log π(y|x) of each (prompt ids, response ids), in nats: [R] float64; at another temperature, that of tokens so drawn."""
    was_training = model.network.training
    model.network.eval()
    head, options = model.head, model.head.options()
    options["scale"] /= temperature
    if options["softcap"]:  # cap · tanh(z/cap) / τ is a cap of cap/τ on z/τ
        options["softcap"] /= temperature
    logprob_R = torch.zeros(len(pairs), dtype=torch.float64)
    for chosen in group_rows([len(prompt) + len(response) for prompt, response in pairs], BESIDE_TRAINING):
        rows = collate([pairs[k] for k in chosen]).to(model.device)
        hidden_ND = model.run(rows.ids_RT, rows.mask_RT).last_hidden_state.flatten(0, 1)[rows.place_N]
        logprob_N = token_logprobs(hidden_ND, head.weight_VD, rows.target_N, **options).double()
        logprob_R[chosen] = sequence_sums(logprob_N, rows.owner_N, len(chosen)).cpu()
    model.network.train(was_training)
    return logprob_R
