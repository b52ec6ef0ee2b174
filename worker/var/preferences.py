"""Losses on pairs of a chosen and a rejected response, as fixed factors of the policy's log-probabilities.

Shapes: M responses of the global batch, P pairs given as indices of responses. ℓ_j = log π_θ(y_j|x) and ρ_j = log π_ref(y_j|x)
are summed over the T_j tokens of a response. Each loss gives every response an implicit reward r_j; m = r_c − r_r is a pair's
margin.

    dpo     L = −log σ(m),                    r = β (ℓ − ρ)                Rafailov et al. 2023, arXiv 2305.18290, equation 7
    ipo     L = (m/β − 1/(2β))²,              r = β (ℓ − ρ)/T              Azar et al. 2023, arXiv 2310.12036, equation 17
    simpo   L = −log σ(m − γ),                r = β ℓ/T                    Meng et al. 2024, arXiv 2405.14734, equation 6
    orpo    L = NLL(y_c) − β log σ(m),        r = log [p/(1 − p)], p = e^(ℓ/T)   Hong et al. 2024, arXiv 2403.07691, equation 6

all means over the pairs; ORPO's NLL is the mean over the tokens of the pairs' chosen responses. IPO is per token, as TRL has it
(the paper's is summed): so β means the same for short and long responses.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LARGEST_MEAN = -1e-6  # of ℓ/T where p/(1 − p) is taken: at p = 1 the odds have no logarithm


@dataclass(frozen=True)
class Likelihoods:
    """ℓ, ρ and T of each response. What is in no pair is not read, nor ρ by a loss without a reference."""

    logprob_M: Tensor
    reference_M: Tensor
    num_tokens_M: Tensor


@dataclass(frozen=True)
class Totals:
    """What means are taken over: the pairs of the global batch, and the tokens of their chosen responses."""

    num_pairs: int
    num_chosen_tokens: int


@dataclass(frozen=True)
class PairTerms:
    """The loss of some pairs, detached; `coefficient_M` is each token's factor c_j in worker.var.logprobs.weighted_nll.

    With c_j = −∂L/∂ℓ_j the gradient of −Σ_j c_j log π_θ(y_j|x) is that of L. Its value is not.
    """

    loss: Tensor
    coefficient_M: Tensor
    margin_P: Tensor
    reward_M: Tensor


@dataclass(frozen=True)
class PairLoss(ABC):
    beta: float

    @abstractmethod
    def reward(self, logprob_M: Tensor, known: Likelihoods) -> Tensor:
        """r_j of each response."""

    @abstractmethod
    def of_margins(self, margin_P: Tensor) -> Tensor:
        """L of each pair."""

    def beside(self, chosen_logprob_P: Tensor, totals: Totals) -> Tensor:
        """Return what the loss has besides margins, from ℓ_c of each pair."""
        return chosen_logprob_P.new_zeros(())

    def terms(self, known: Likelihoods, chosen_P: Tensor, rejected_P: Tensor, totals: Totals) -> PairTerms:
        """Loss and factors of the pairs (chosen_P, rejected_P); with the totals of the global batch parts add up."""
        logprob_M = known.logprob_M.detach().clone().requires_grad_()
        with torch.enable_grad():
            reward_M = self.reward(logprob_M, known)
            margin_P = reward_M[chosen_P] - reward_M[rejected_P]
            loss = self.of_margins(margin_P).sum() / totals.num_pairs + self.beside(logprob_M[chosen_P], totals)
        (slope_M,) = torch.autograd.grad(loss, logprob_M)
        return PairTerms(loss.detach(), -slope_M, margin_P.detach(), reward_M.detach())


@dataclass(frozen=True)
class Dpo(PairLoss):
    def reward(self, logprob_M: Tensor, known: Likelihoods) -> Tensor:
        return self.beta * (logprob_M - known.reference_M)

    def of_margins(self, margin_P: Tensor) -> Tensor:
        return -logsigmoid(margin_P)


@dataclass(frozen=True)
class Ipo(PairLoss):
    def reward(self, logprob_M: Tensor, known: Likelihoods) -> Tensor:
        return self.beta * (logprob_M - known.reference_M) / known.num_tokens_M

    def of_margins(self, margin_P: Tensor) -> Tensor:
        return (margin_P / self.beta - 1 / (2 * self.beta)).square()


@dataclass(frozen=True)
class Simpo(PairLoss):
    gamma: float

    def reward(self, logprob_M: Tensor, known: Likelihoods) -> Tensor:
        return self.beta * logprob_M / known.num_tokens_M

    def of_margins(self, margin_P: Tensor) -> Tensor:
        return -logsigmoid(margin_P - self.gamma)


@dataclass(frozen=True)
class Orpo(PairLoss):
    def reward(self, logprob_M: Tensor, known: Likelihoods) -> Tensor:
        mean_M = (logprob_M / known.num_tokens_M).clamp(max=LARGEST_MEAN)
        return mean_M - torch.log(-torch.expm1(mean_M))

    def of_margins(self, margin_P: Tensor) -> Tensor:
        return -self.beta * logsigmoid(margin_P)

    def beside(self, chosen_logprob_P: Tensor, totals: Totals) -> Tensor:
        return -chosen_logprob_P.sum() / totals.num_chosen_tokens
