"""The weights w(x, y) of reward-weighted fine-tuning, in every reading of the method that docs/method.md lists.

Shapes: B prompts x_i, M responses y_j (y_j belongs to prompt own_M[j]). One batch is a stack of one (worker.var.stacks), so
training, previews and the search for λ share every line of the mathematics.
"""

from dataclasses import replace

from torch import Tensor

from worker.var.candidates import Candidates, WeightChoices, stack
from worker.var.lambdas import TargetUnreachable, find_lambda
from worker.var.stacks import Weighed, effective_sample_sizes, weigh
from worker.var.terms import make_terms

__all__ = [
    "Candidates",
    "TargetUnreachable",
    "WeightChoices",
    "compute_weights",
    "effective_sample_size",
    "find_lambda",
    "weigh_batch",
]


def weigh_batch(candidates: Candidates, choices: WeightChoices, *, reward_mean: float = 0.0, reward_std: float = 1.0) -> Weighed:
    """One batch with its weights and all that they are made of, as a stack of one."""
    weighed = weigh(make_terms(stack([candidates]), choices, reward_mean, reward_std), choices.lambda_)
    return replace(weighed, log_scale=choices.log_scale)


def compute_weights(
    candidates: Candidates, choices: WeightChoices, *, reward_mean: float = 0.0, reward_std: float = 1.0
) -> Tensor:
    """w_j of every response: float32 (float64 stays) [M], detached. With `mean_one`: M w_j / Σ w, over those in the loss;
    without: w_j / e^log_scale.

    `reward_mean` and `reward_std` are those of the scored data set, used by `reward_norm: zscore`.
    Raises ValueError when a reward or log-probability that the choices need is missing.
    """
    return weigh_batch(candidates, choices, reward_mean=reward_mean, reward_std=reward_std).weight_SM[0]


def effective_sample_size(weight_M: Tensor) -> float:
    """(Σw)² / Σw², in responses; 0 when all weights are 0."""
    return float(effective_sample_sizes(weight_M[None])[0])
