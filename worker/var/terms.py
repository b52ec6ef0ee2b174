"""The two terms of log Z(x), without λ: the prior that stands before exp(r/λ), and the reward r.

Shapes: S batches, B rows, C candidates of a row, M responses (worker.var.candidates). Nothing here carries a gradient.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from worker.var.candidates import StackedCandidates, WeightChoices
from worker.var.certificate import holds_for


@dataclass(frozen=True)
class Terms:
    """What Z(x_i) is made of, for any λ: Σ_c exp(prior_ic + reward_ic / (scale · λ)); −inf for candidates outside Z(x_i)."""

    stack: StackedCandidates
    choices: WeightChoices
    prior_SBC: Tensor
    reward_SBC: Tensor
    scale: float
    draw_reward_SBK: Tensor | None = None

    @cached_property
    def log_omega_SB(self) -> Tensor:
        """log Σ_c exp(prior_ic), which Ẑ of the form `ratio` is divided by."""
        return torch.logsumexp(self.prior_SBC, dim=2)

    @cached_property
    def largest_reward_S(self) -> Tensor:
        """The largest |reward| of each batch, over Z(x) of all its prompts."""
        size_SBC = torch.where(self.reward_SBC == -math.inf, 0.0, self.reward_SBC.abs())
        return torch.where(self.stack.row_SB[:, :, None], size_SBC, 0.0).amax(dim=(1, 2))


@torch.no_grad()
def make_terms(stack: StackedCandidates, choices: WeightChoices, reward_mean: float = 0.0, reward_std: float = 1.0) -> Terms:
    """Return the terms of many batches; raises ValueError when an entry that the choices need is missing."""
    dropped_SBC = _dropped(stack, choices)
    standing_SBC = allowed(stack, choices)
    if dropped_SBC is not None:
        standing_SBC = ~dropped_SBC if standing_SBC is None else standing_SBC & ~dropped_SBC
    reward_SBC = _mask(_rewards(stack, choices), standing_SBC, "reward r(x, y)")
    if choices.reward_norm == "zscore":
        reward_SBC = reward_SBC - reward_mean
    # Rewards without any spread stay as they are: they carry no signal, and 0/0 must not make one up.
    scale = (reward_std or 1.0) if choices.reward_norm == "zscore" else 1.0
    prior_SBC = _mask(_priors(stack, choices), standing_SBC, "log-probability log π_ref(y|x)")
    # A row's factor cancels, and at a log-probability of −30 000 float32 steps by 0.002, too coarse to add r/λ to.
    prior_SBC = prior_SBC - prior_SBC.amax(dim=2, keepdim=True)
    if choices.partition_scope != "draws":
        return Terms(stack, choices, prior_SBC, reward_SBC, scale)
    if stack.draw_reward_SBK is None or stack.draw_SM is None or not bool(stack.draw_reward_SBK.isfinite().all()):
        raise ValueError("the rewards of the reference's draws are missing or not finite: make the draws first")
    draw_reward_SBK = _at_least_float32(stack.draw_reward_SBK) - (reward_mean if choices.reward_norm == "zscore" else 0.0)
    return Terms(stack, choices, prior_SBC, reward_SBC, scale, draw_reward_SBK)


def allowed(stack: StackedCandidates, choices: WeightChoices) -> Tensor | None:
    """Return which candidates stand in Z(x_i): bool, as far as it broadcasts; None: all. Those of the batch, or the prompt's
    own.
    """
    if choices.partition_scope == "batch" or stack.candidate_SBC is not None:
        return stack.present_SBC
    return stack.own_SBC if stack.present_SBC is None else stack.own_SBC & stack.present_SBC


def own_rewards(stack: StackedCandidates) -> Tensor:
    """r(x_own(j), y_j): [S, M], as the reward source gave it."""
    return _at_least_float32(stack.gather_own(stack.reward_SBC))


def _rewards(stack: StackedCandidates, choices: WeightChoices) -> Tensor:
    """r_ij; the form `reward` has no cross terms, so it reuses each response's own reward whatever `cross_reward` says."""
    reuses = choices.cross_reward == "reuse" or choices.weight_form == "reward"
    if reuses and stack.candidate_SBC is None:
        return own_rewards(stack)[:, None].expand(stack.reward_SBC.shape)
    return _at_least_float32(stack.reward_SBC)


def _priors(stack: StackedCandidates, choices: WeightChoices) -> Tensor:
    """posterior: ℓ_ij = log π_ref(y_j|x_i)      ratio: log ω_ij = ℓ_ij − ℓ_own(j),j      reward: 0

    where ℓ is the sum over the response's tokens or their mean.
    """
    if choices.weight_form == "reward" or (choices.weight_form == "ratio" and choices.partition_scope != "batch"):
        return _at_least_float32(torch.zeros_like(stack.logprob_SBC))  # ω = 1 within a prompt: ℓ isn't even read
    prior_SBC = _at_least_float32(stack.logprob_SBC)
    if choices.logprob_norm == "mean":
        prior_SBC = prior_SBC / stack.num_tokens_SBC.clamp(min=1)
    return prior_SBC - stack.gather_own(prior_SBC)[:, None] if choices.weight_form == "ratio" else prior_SBC


def _dropped(stack: StackedCandidates, choices: WeightChoices) -> Tensor | None:
    """Other prompts' responses that were dropped with a certificate; None: there are none, or it doesn't hold here."""
    if not holds_for(choices) or stack.candidate_SBC is not None:
        return None
    dropped_SBC = (stack.logprob_SBC == -math.inf) & ~stack.own_SBC
    return dropped_SBC if bool(dropped_SBC.any()) else None


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _mask(values_SBC: Tensor, standing_SBC: Tensor | None, what: str) -> Tensor:
    """Return the values, −inf where nothing stands."""
    finite_SBC = values_SBC.isfinite()
    missing_SBC = ~finite_SBC if standing_SBC is None else standing_SBC & ~finite_SBC
    if bool(missing_SBC.any()):
        _, i, j = missing_SBC.nonzero()[0].tolist()
        raise ValueError(f"the {what} of response {j} with prompt {i} of the batch is missing or not finite: score that pair")
    return values_SBC if standing_SBC is None else torch.where(standing_SBC, values_SBC, -math.inf)
