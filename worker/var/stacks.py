"""Weights of many batches at once: what a preview of cached scores, and the search for λ, are made of.

Shapes: S batches, B rows, C candidates of a row, M responses (worker.var.candidates). The weights are constants of the loss:
nothing here carries a gradient. Exponentials stay in log space to the last line, with row maxima taken off.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from worker.var.candidates import StackedCandidates, stack
from worker.var.draws import log_partition, log_partition_without
from worker.var.terms import Terms, make_terms

__all__ = [
    "StackedCandidates",
    "TooSmallLambda",
    "Weighed",
    "effective_sample_sizes",
    "log_mean",
    "log_mean_weight",
    "make_terms",
    "stack",
    "weigh",
]

LOG_WEIGHT_LIMIT = 80.0  # e^80 is finite in float32; only `ratio` and `reward` without `mean_one` can reach it


class TooSmallLambda(ValueError):
    """A reward over this λ is not a number of the precision that weights are computed in."""


@dataclass(frozen=True)
class Weighed:
    """The weights of a stack at one λ. `log_term_SBC`: prior_ic + r_ic/λ less the row's largest r/λ, so Z(x_i) up to a factor."""

    terms: Terms
    lambda_: float
    log_term_SBC: Tensor
    log_weight_SM: Tensor
    log_scale: float = 0.0

    @cached_property
    def share_SBC(self) -> Tensor:
        """Each candidate's share of Z(x_i): softmax over c of [log prior_ic + r_ic/λ]; rows sum to 1."""
        return torch.softmax(self.log_term_SBC, dim=2)

    @cached_property
    def entering_SM(self) -> Tensor:
        """The responses that enter the loss: bool."""
        stack = self.terms.stack
        entering_SM = stack.present_SM if stack.enters_SM is None else stack.enters_SM
        return torch.ones_like(stack.own_SM, dtype=torch.bool) if entering_SM is None else entering_SM

    @cached_property
    def weight_SM(self) -> Tensor:
        """w_j of every response, 0 outside the loss. With `mean_one`: M w_j / Σ w, over those of the batch in the loss.
        Otherwise w_j / e^log_scale.
        """
        log_weight_SM = self.log_weight_SM.masked_fill(~self.entering_SM, -math.inf)
        if not self.terms.choices.mean_one:
            return (log_weight_SM - self.log_scale).clamp(max=LOG_WEIGHT_LIMIT).exp()
        num_entering_S1 = self.entering_SM.sum(dim=1, keepdim=True)
        return torch.where(num_entering_S1 > 0, torch.softmax(log_weight_SM, dim=1) * num_entering_S1, 0.0)


@torch.no_grad()
def weigh(terms: Terms, lambda_: float) -> Weighed:
    """log w_j before any rescaling, of every response, with i = own(j):

    posterior   w_j = π_ref(y_j|x_i) e^(r_ij/λ) / Σ_k π_ref(y_k|x_i) e^(r_ik/λ)          (arXiv 2502.11026)
    ratio       w_j = e^(r_ij/λ) / Ẑ_i,  Ẑ_i = Σ_k ω_ik e^(r_ik/λ) / Σ_k ω_ik            (estimates π*/π_ref)
    reward      w_j = e^(r_ij/λ)                                                         (the control without π_ref)
    With Z(x) from draws of π_ref, whatever the form: w_j = e^(r_ij/λ) / Ẑ_i, without draw j where j is one (worker.var.draws).

    Raises ValueError when λ is not above 0, TooSmallLambda when r/λ is not a number of this precision.
    """
    if not lambda_ > 0:
        raise ValueError(f"lambda is {lambda_}, but a temperature must be above 0")
    exponent_SBC = terms.reward_SBC / (terms.scale * lambda_)
    best_SB1 = exponent_SBC.amax(dim=2, keepdim=True)
    if not bool(best_SB1.isfinite().all()):
        raise TooSmallLambda(f"A reward divided by lambda {lambda_:g} is too large a number: raise lambda.")
    # The row's largest r/λ comes off first: at 1e4 float32 has three decimals left, too few to add ℓ to.
    from_best_SBC = exponent_SBC - best_SB1
    term_SBC, gather_own = terms.prior_SBC + from_best_SBC, terms.stack.gather_own
    if terms.choices.weight_form == "reward":
        return Weighed(terms, lambda_, term_SBC, gather_own(exponent_SBC))
    if terms.draw_reward_SBK is not None:
        return Weighed(terms, lambda_, term_SBC, _by_draws(terms, lambda_, terms.draw_reward_SBK))
    log_z_SB = torch.logsumexp(term_SBC, dim=2)
    if terms.choices.weight_form == "ratio":
        own_SM, log_z_SB = gather_own(from_best_SBC), log_z_SB - terms.log_omega_SB
    else:
        own_SM = gather_own(term_SBC)
    return Weighed(terms, lambda_, term_SBC, own_SM - log_z_SB.gather(1, terms.stack.own_SM))


def _by_draws(terms: Terms, lambda_: float, draw_reward_SBK: Tensor) -> Tensor:
    """log w_j = r_j/λ − log Ẑ_own(j), the prompt's best draw taken off both before anything is divided by λ."""
    stack, scale = terms.stack, terms.scale * lambda_
    assert stack.draw_SM is not None
    best_SB = draw_reward_SBK.amax(dim=2)
    exponent_SBK = (draw_reward_SBK - best_SB[:, :, None]) / scale
    own_SM = (stack.gather_own(terms.reward_SBC) - best_SB.gather(1, stack.own_SM)) / scale
    num_draws, draw_SM = draw_reward_SBK.shape[2], stack.draw_SM
    place_SM = stack.own_SM * num_draws + draw_SM.clamp(min=0)
    without_SM = log_partition_without(exponent_SBK).flatten(1).gather(1, place_SM)
    return own_SM - torch.where(draw_SM < 0, log_partition(exponent_SBK).gather(1, stack.own_SM), without_SM)


@torch.no_grad()
def log_mean_weight(parts: Iterable[Weighed]) -> float:
    """Return the logarithm of the mean weight over all responses of many stacks that enter the loss.

    Σ w / M over the data set: the one scale of `mean_one: dataset`. It is a constant of the data, λ and the choices, so it
    neither favours a response nor depends on how the batches were put together, as long as the weights themselves don't.
    """
    return log_mean(torch.cat([part.log_weight_SM[part.entering_SM] for part in parts]))


def log_mean(log_weight_N: Tensor) -> float:
    """Return the logarithm of the mean of e^log_weight; 0 of none."""
    return float(torch.logsumexp(log_weight_N.double(), dim=0)) - math.log(len(log_weight_N)) if len(log_weight_N) else 0.0


def effective_sample_sizes(weight_SM: Tensor) -> Tensor:
    """(Σw)² / Σw² of each batch, in responses: float64 [S]; 0 when all weights are 0.

    Scale-free, so the largest weight is divided out first.
    """
    largest_S1 = weight_SM.amax(dim=1, keepdim=True)
    scaled_SM = weight_SM.double() / torch.where(largest_S1 > 0, largest_S1, 1.0)
    square_S = scaled_SM.square().sum(dim=1)
    return scaled_SM.sum(dim=1).square() / torch.where(square_S > 0, square_S, 1.0)
