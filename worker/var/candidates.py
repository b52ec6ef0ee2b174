"""Scored candidates of one batch or of many at once, and the choices of the method.

Shapes: S batches, B prompts x_i, M responses y_j (M = Σ K_i; y_j belongs to prompt own_M[j]), C candidates that stand in a row.
Float32, or float64 when given float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class WeightChoices:
    """What the method leaves open (docs/method.md); `lambda_` is the temperature λ > 0 in units of the (normalised) reward."""

    weight_form: Literal["posterior", "ratio", "reward"] = "posterior"
    partition_scope: Literal["batch", "prompt", "draws"] = "batch"
    logprob_norm: Literal["sum", "mean"] = "mean"
    cross_reward: Literal["score", "reuse"] = "score"
    reward_norm: Literal["none", "zscore"] = "none"
    mean_one: bool = True
    lambda_: float = 1.0
    log_scale: float = 0.0  # without `mean_one`: the logarithm of what every weight is divided by, the same in all batches


@dataclass(frozen=True)
class Candidates:
    """The responses of one global batch, scored. Entries that the choices don't need may be NaN and are never read.

    own_M        int64   index of each response's prompt
    logprob_BM   float   log π_ref(y_j|x_i), summed over the response's tokens, in nats; −inf: another prompt's response that was
                         dropped because its share of Z(x_i) is certain to be nil (worker.var.certificate)
    num_tokens_M int64   response lengths
    reward_BM    float   r(x_i, y_j); not read where the log-probability is −inf
    enters_M     bool    the responses that enter the loss (None: all); the others get weight 0 but stand in Z(x) all the same
    draw_reward_BK  float  with Z(x) from draws: r(x_i, y_k) of K draws of π_ref
    draw_M       int64   which of its prompt's draws a response is, −1: none
    """

    own_M: Tensor
    logprob_BM: Tensor
    num_tokens_M: Tensor
    reward_BM: Tensor
    enters_M: Tensor | None = None
    draw_reward_BK: Tensor | None = None
    draw_M: Tensor | None = None


@dataclass(frozen=True)
class StackedCandidates:
    """Many batches in one shape: of each, rows of candidates. Places that only fill up the shape hold finite numbers.

    own_SM         int64   row of each response's prompt
    logprob_SBC    float   as in Candidates; in a row all responses of the batch stand (C = M), or `candidate_SBC` says which
    num_tokens_SM  int64
    reward_SBC     float
    enters_SM      bool    None: all that are present
    present_SM     bool    None: all; the others only fill up
    candidate_SBC  int64   for rows of own responses alone: which response each candidate is, −1 for none
    num_prompts_S  int64   None: the rows. Given where one row stands for all prompts of its batch (form `reward`: rows are alike)
    draw_reward_SBK, draw_SM   as in Candidates
    """

    own_SM: Tensor
    logprob_SBC: Tensor
    num_tokens_SM: Tensor
    reward_SBC: Tensor
    enters_SM: Tensor | None = None
    present_SM: Tensor | None = None
    candidate_SBC: Tensor | None = None
    num_prompts_S: Tensor | None = None
    draw_reward_SBK: Tensor | None = None
    draw_SM: Tensor | None = None

    @cached_property
    def row_SB(self) -> Tensor:
        """Which rows are prompts: bool, the others only fill up."""
        counted_SM = torch.ones_like(self.own_SM) if self.present_SM is None else self.present_SM.long()
        return self.own_SM.new_zeros(self.reward_SBC.shape[:2]).scatter_add(1, self.own_SM, counted_SM) > 0

    @cached_property
    def own_SBC(self) -> Tensor:
        """Which candidates are the row's own responses: bool. Of rows that only fill up: all."""
        if self.candidate_SBC is not None:
            return torch.ones_like(self.candidate_SBC, dtype=torch.bool)
        row_B1 = torch.arange(self.reward_SBC.shape[1], device=self.own_SM.device)[:, None]
        own_SBC = self.own_SM[:, None] == row_B1
        return own_SBC if self.present_SM is None else own_SBC | ~self.row_SB[:, :, None]

    @cached_property
    def present_SBC(self) -> Tensor | None:
        """Which candidates there are: bool, as far as it broadcasts; None: all. Of rows that only fill up: all."""
        if self.candidate_SBC is not None:
            return (self.candidate_SBC >= 0) | ~self.row_SB[:, :, None]
        return None if self.present_SM is None else self.present_SM[:, None] | ~self.row_SB[:, :, None]

    @cached_property
    def num_tokens_SBC(self) -> Tensor:
        """Lengths of the candidates, as far as they broadcast."""
        if self.candidate_SBC is None:
            return self.num_tokens_SM[:, None]
        return self.num_tokens_SM.gather(1, self.candidate_SBC.clamp(min=0).flatten(1)).view_as(self.candidate_SBC)

    @cached_property
    def _place_SM(self) -> Tensor:
        """Where each response stands in its own row, in the flattened rows."""
        num_candidates, device = self.reward_SBC.shape[2], self.own_SM.device
        column_SM = torch.arange(self.own_SM.shape[1], device=device)
        if self.candidate_SBC is not None:
            # Own responses follow one another, so a response's column is how far it stands behind its row's first.
            column_SM = column_SM - self.candidate_SBC[:, :, 0].gather(1, self.own_SM)
            column_SM = column_SM.clamp(0, num_candidates - 1)
        return self.own_SM * num_candidates + column_SM

    def gather_own(self, value_SBC: Tensor) -> Tensor:
        """value_SM: each response's entry in its own prompt's row."""
        return value_SBC.flatten(1).gather(1, self._place_SM)


def stack(batches: Sequence[Candidates]) -> StackedCandidates:
    """Batches of any shapes as one stack, filled up with zeros."""
    num_prompts, num_responses = (max(b.reward_BM.shape[axis] for b in batches) for axis in (0, 1))

    def wide(value: Tensor, rows: int | None = None) -> Tensor:
        return pad(value, (0, num_responses - value.shape[-1], *(() if rows is None else (0, num_prompts - rows))))

    ragged = any(b.reward_BM.shape != (num_prompts, num_responses) for b in batches)
    masked = any(b.enters_M is not None for b in batches)
    all_M = [torch.ones_like(b.own_M, dtype=torch.bool) for b in batches]
    enters = [every if b.enters_M is None else b.enters_M for b, every in zip(batches, all_M, strict=True)]
    draws = [wide(b.draw_M) for b in batches if b.draw_M is not None]
    draw_rewards = [
        pad(b.draw_reward_BK, (0, 0, 0, num_prompts - len(b.reward_BM))) for b in batches if b.draw_reward_BK is not None
    ]
    return StackedCandidates(
        own_SM=torch.stack([wide(b.own_M) for b in batches]),
        logprob_SBC=torch.stack([wide(b.logprob_BM, len(b.logprob_BM)) for b in batches]),
        num_tokens_SM=torch.stack([wide(b.num_tokens_M) for b in batches]),
        reward_SBC=torch.stack([wide(b.reward_BM, len(b.reward_BM)) for b in batches]),
        enters_SM=torch.stack([wide(mask) for mask in enters]) if masked or ragged else None,
        present_SM=torch.stack([wide(mask) for mask in all_M]) if ragged else None,
        draw_reward_SBK=torch.stack(draw_rewards) if draw_rewards else None,
        draw_SM=torch.stack(draws) if draws else None,
    )
