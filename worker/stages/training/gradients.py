"""Forward and backward over one batch: what each method adds to the gradients, and what it tells of the batch.

All means are taken over the global batch beforehand, so passes over micro-batches, or over the shares of several processes
(worker.stages.training.distribution), add up: each process gets the gradients of its share, and all are told the sums of the
rest.
Legend: R rows of a micro-batch, T tokens, N response positions, D hidden size, M responses of the batch, P pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from worker.models.adapter import Body, Head, LanguageModel
from worker.models.classifier import classify
from worker.models.parallel import Ranks
from worker.stages.batches import MicroBatch, Rows
from worker.stages.examples import Encoded
from worker.stages.training.distribution import share_batch
from worker.var.bradley_terry import bradley_terry_loss
from worker.var.groups import group_terms
from worker.var.kto import kto_terms
from worker.var.logprobs import sequence_sums, token_logprobs, weighted_nll
from worker.var.preferences import Likelihoods, PairLoss, Totals


@dataclass
class Pass:
    """What a pass over a batch, or over a share of it, comes to: the loss, the tokens, and metrics by key; all of it adds up."""

    loss: Tensor
    num_tokens: int = 0
    metrics: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, model: Body, *keys: str) -> "Pass":
        zero = torch.zeros((), device=model.device)
        return cls(zero, 0, dict.fromkeys(keys, zero))

    def add(self, loss: Tensor, num_tokens: int, metrics: dict[str, Tensor] | None = None, share: float = 1.0) -> None:
        """One more micro-batch; of one with `share` 0 nothing counts."""
        self.loss = self.loss + share * loss.detach()
        self.num_tokens += num_tokens if share else 0
        for key, value in (metrics or {}).items():
            self.metrics[key] = self.metrics[key] + share * value.detach()

    def over(self, ranks: Ranks) -> "Pass":
        """Return the sum of all processes' passes."""
        if ranks.is_alone:
            return self
        values = torch.stack([self.loss.double(), self.loss.new_tensor(self.num_tokens).double(), *self.metrics.values()])
        loss, num_tokens, *rest = ranks.sum(values)
        return Pass(loss.float(), int(num_tokens), dict(zip(self.metrics, (value.float() for value in rest), strict=True)))


class Weighted(Protocol):
    """A batch whose every token has a factor that is known before training."""

    @property
    def examples(self) -> Sequence[Encoded]: ...
    @property
    def enters_M(self) -> Tensor: ...
    @property
    def coefficient_M(self) -> Tensor: ...


@dataclass(frozen=True)
class PlainBatch:
    """A batch for fine-tuning without rewards."""

    index: int
    examples: Sequence[Encoded]
    enters_M: Tensor
    coefficient_M: Tensor


@dataclass(frozen=True)
class PairedBatch:
    """A batch for losses on pairs: these as indices of the batch's responses, log π_ref of each response (NaN where no loss reads
    it), and their lengths.
    """

    index: int
    examples: Sequence[Encoded]
    chosen_P: Tensor
    rejected_P: Tensor
    reference_M: Tensor
    num_tokens_M: Tensor

    @property
    def enters_M(self) -> Tensor:
        """The responses of any pair."""
        enters_M = torch.zeros(len(self.reference_M), dtype=torch.bool)
        enters_M[self.chosen_P] = enters_M[self.rejected_P] = True
        return enters_M

    @property
    def totals(self) -> Totals:
        return Totals(len(self.chosen_P), int(self.num_tokens_M[self.chosen_P].sum()))


@dataclass(frozen=True)
class LabelledBatch:
    """A batch for a loss on single responses: +1 where one is desirable, −1 where it isn't, 0 where it doesn't count, and
    log π_ref.

    `strange`: each prompt with a response of another's in the place of its own, whose log π_ref is strange_B: they tell how far
    the policy is from the reference. Empty where the batch has one prompt.
    """

    index: int
    examples: Sequence[Encoded]
    sign_M: Tensor
    reference_M: Tensor
    strange: Sequence[Encoded]
    strange_B: Tensor

    @property
    def enters_M(self) -> Tensor:
        return self.sign_M != 0


@dataclass(frozen=True)
class GroupBatch:
    """A batch of fresh responses with their advantages. A unit of the loss is a response, or a token where `per_token`:
    log π_s and log π_ref are then those of the response's tokens, else of all of it (and log π_ref is not read).
    """

    index: int
    examples: Sequence[Encoded]
    advantage_M: Tensor
    sampler: Sequence[Sequence[float]]
    reference: Sequence[Sequence[float]]
    per_token: bool

    @property
    def enters_M(self) -> Tensor:
        return torch.ones(len(self.advantage_M), dtype=torch.bool)

    @property
    def num_units(self) -> int:
        return sum(map(len, self.sampler))


@dataclass(frozen=True)
class TextBatch:
    """A batch for a reward model: ids of whole conversations, and the pairs as indices of them; prompt_M counts the prompts."""

    index: int
    ids: Sequence[Sequence[int]]
    prompt_M: Tensor
    chosen_P: Tensor
    rejected_P: Tensor


def accumulate_weighted(model: LanguageModel, batch: Weighted, micro_batch_size: int | None) -> Pass:
    """VAR and plain fine-tuning: L = −Σ_j c_j Σ_t log π_θ(y_jt|…)."""
    done = Pass.start(model)
    for micro in share_batch(batch.examples, batch.enters_M, micro_batch_size, model):
        rows, hidden_ND, head = run_micro(model, micro)
        coefficient_N = micro.share * batch.coefficient_M[micro.response_R].to(model.device)[rows.owner_N]
        part, _ = weighted_nll(hidden_ND, head.weight_VD, rows.target_N, coefficient_N, **head.options())
        part.backward()
        done.add(part, rows.num_tokens if micro.share else 0)
    return done.over(model.ranks)


def accumulate_preferences(
    model: LanguageModel, batch: PairedBatch, micro_batch_size: int | None, loss: PairLoss, prefix: str = "pairs"
) -> Pass:
    """Add a loss on pairs, on response positions alone: its slopes, known once the sums of log π_θ are, become the factors of the
    tokens. What is told of the pairs has keys with this prefix.
    """
    told = [f"{prefix}/{name}" for name in ("accuracy", "margin", "gain_chosen", "gain_rejected")]
    done = Pass.start(model, *told)
    for micro in share_batch(batch.examples, batch.enters_M, micro_batch_size, model):
        rows, hidden_ND, head = run_micro(model, micro)
        logprob_N = token_logprobs(hidden_ND.detach(), head.weight_VD, rows.target_N, **head.options())
        logprob_R = sequence_sums(logprob_N, rows.owner_N, len(micro.response_R))
        chosen_P, rejected_P = (pairs.to(model.device) for pairs in select_pairs(batch, micro))
        known = (values[micro.response_R].to(model.device) for values in (batch.reference_M, batch.num_tokens_M))
        terms = loss.terms(Likelihoods(logprob_R, *known), chosen_P, rejected_P, batch.totals)
        coefficient_N = micro.share * terms.coefficient_M[rows.owner_N]
        weighted_nll(hidden_ND, head.weight_VD, rows.target_N, coefficient_N, **head.options())[0].backward()
        of_pairs = ((terms.margin_P > 0).float(), terms.margin_P, terms.reward_M[chosen_P], terms.reward_M[rejected_P])
        means = {key: value.sum() / len(batch.chosen_P) for key, value in zip(told, of_pairs, strict=True)}
        done.add(terms.loss, rows.num_tokens, means, micro.share)
    return done.over(model.ranks)


def accumulate_labelled(
    model: LanguageModel, batch: LabelledBatch, micro_batch_size: int | None, beta: float, weights: tuple[float, float]
) -> Pass:
    """Add KTO's loss: how far the policy is from the reference over the whole batch, then the slopes of each response."""
    kl = measure_distance(model, batch, micro_batch_size)
    num = int(batch.enters_M.sum())
    done = Pass.start(model, "kto/gain_desirable", "kto/gain_undesirable")
    for micro in share_batch(batch.examples, batch.enters_M, micro_batch_size, model):
        rows, hidden_ND, head = run_micro(model, micro)
        logprob_N = token_logprobs(hidden_ND.detach(), head.weight_VD, rows.target_N, **head.options())
        logprob_R = sequence_sums(logprob_N, rows.owner_N, len(micro.response_R))
        reference_R, sign_R = (values[micro.response_R].to(model.device) for values in (batch.reference_M, batch.sign_M))
        terms = kto_terms(logprob_R, reference_R, sign_R, kl, beta, weights, num)
        coefficient_N = micro.share * terms.coefficient_M[rows.owner_N]
        weighted_nll(hidden_ND, head.weight_VD, rows.target_N, coefficient_N, **head.options())[0].backward()
        sides = zip(done.metrics, (1, -1), strict=True)
        means = {key: terms.reward_M[sign_R == side].sum() / max(1, int((batch.sign_M == side).sum())) for key, side in sides}
        done.add(terms.loss, rows.num_tokens, means, micro.share)
    done = done.over(model.ranks)
    return replace(done, metrics=done.metrics | {"kto/kl": done.loss.new_tensor(kl)})


@torch.no_grad()
def measure_distance(model: LanguageModel, batch: LabelledBatch, micro_batch_size: int | None) -> float:
    """Return max(0, mean of log π_θ − log π_ref) of the batch's strange responses, over all processes; 0 without any."""
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    every_B = torch.ones(len(batch.strange), dtype=torch.bool)
    for micro in share_batch(batch.strange, every_B, micro_batch_size, model):
        rows, hidden_ND, head = run_micro(model, micro)
        logprob_N = token_logprobs(hidden_ND, head.weight_VD, rows.target_N, **head.options())
        strange_R = batch.strange_B[micro.response_R].to(model.device)
        total += micro.share * (logprob_N.double().sum() - strange_R.double().sum())
    if model.is_sharded:
        model.network.reshard()
    return max(0.0, float(model.ranks.sum(total)) / max(1, len(batch.strange)))


def accumulate_groups(model: LanguageModel, batch: GroupBatch, micro_batch_size: int | None, clip: float, kappa: float) -> Pass:
    """Add the clipped policy gradient of RLOO or GRPO on fresh responses."""
    num = batch.num_units
    done = Pass.start(model, "group/clipped_share", "group/kl")
    for micro in share_batch(batch.examples, batch.enters_M, micro_batch_size, model):
        rows, hidden_ND, head = run_micro(model, micro)
        logprob_N = token_logprobs(hidden_ND.detach(), head.weight_VD, rows.target_N, **head.options())
        sampler_U, reference_U = (
            torch.tensor([value for k in micro.response_R.tolist() for value in kept[k]], device=model.device)
            for kept in (batch.sampler, batch.reference)
        )
        advantage_R = batch.advantage_M[micro.response_R].to(model.device)
        if batch.per_token:
            terms = group_terms(logprob_N, sampler_U, reference_U, advantage_R[rows.owner_N], clip, kappa, num)
            coefficient_N = terms.coefficient_U
        else:
            logprob_R = sequence_sums(logprob_N, rows.owner_N, len(micro.response_R))
            terms = group_terms(logprob_R, sampler_U, None, advantage_R, clip, 0.0, num)
            coefficient_N = terms.coefficient_U[rows.owner_N]
        weighted_nll(hidden_ND, head.weight_VD, rows.target_N, micro.share * coefficient_N, **head.options())[0].backward()
        means = {key: value.sum() / num for key, value in zip(done.metrics, (terms.clipped_U.float(), terms.kl_U), strict=True)}
        done.add(terms.loss, rows.num_tokens, means, micro.share)
    return done.over(model.ranks)


def accumulate_pairs(model: Body, batch: TextBatch, micro_batch_size: int | None) -> Pass:
    """Bradley-Terry on whole conversations, scored by a classifier."""
    done = Pass.start(model, "reward_model/accuracy", "reward_model/margin")
    prompt_P, num_pairs = batch.prompt_M[batch.chosen_P], len(batch.chosen_P)
    prompts = prompt_P.unique().tolist()
    lengths = torch.tensor([len(row) for row in batch.ids])
    mine = [prompts[k] for k in model.ranks.share([int(lengths[batch.prompt_M == prompt].sum()) for prompt in prompts])]
    size = micro_batch_size or max(1, len(mine))
    for start in range(0, len(mine), size):
        here_P = torch.isin(prompt_P, torch.tensor(mine[start : start + size]))
        members, place_P = torch.cat([batch.chosen_P[here_P], batch.rejected_P[here_P]]).unique(return_inverse=True)
        rows = [batch.ids[k] for k in members.tolist()]
        chosen_P, rejected_P = place_P.to(model.device).chunk(2)
        loss, margin_P = bradley_terry_loss(classify(model, rows), chosen_P, rejected_P, num_pairs)
        loss.backward()
        told = {"reward_model/accuracy": (margin_P > 0).float(), "reward_model/margin": margin_P}
        done.add(loss, sum(map(len, rows)), {key: value.sum() / num_pairs for key, value in told.items()})
    return done.over(model.ranks)


def select_pairs(batch: PairedBatch, micro: MicroBatch) -> tuple[Tensor, Tensor]:
    """Return the pairs that stand in a micro-batch of whole prompts, as indices of its rows."""
    row_M = torch.full((len(batch.reference_M),), -1)
    row_M[micro.response_R] = torch.arange(len(micro.response_R))
    chosen_P, rejected_P = row_M[batch.chosen_P], row_M[batch.rejected_P]
    return chosen_P[chosen_P >= 0], rejected_P[rejected_P >= 0]


def run_micro(model: LanguageModel, micro: MicroBatch) -> tuple[Rows, Tensor, Head]:
    """Run the body on a micro-batch: its rows, the hidden states of their response positions [N, D], and the head, which in a
    sharded policy is whole once the body has run.
    """
    rows = micro.rows.to(model.device)
    return rows, run_rows(model, rows)[rows.place_N], model.head


def run_rows(model: LanguageModel, rows: Rows) -> Tensor:
    """Hidden states of all places of the rows, one after another: [R·T, D]."""
    if rows.packing is not None:
        return model.run_packed(rows.ids_RT[0], rows.packing)
    return model.run(rows.ids_RT, rows.mask_RT).last_hidden_state.flatten(0, 1)
