"""The loss of a reward model on preference pairs (Bradley and Terry 1952), differentiable.

Shapes: M responses, P pairs of a chosen and a rejected one, given as indices of responses.
    P(y_c preferred to y_r | x) = σ(r(x, y_c) − r(x, y_r)),      L = −1/P Σ_p log σ(r_c − r_r)
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry_loss(reward_M: Tensor, chosen_P: Tensor, rejected_P: Tensor, num_pairs: int) -> tuple[Tensor, Tensor]:
    """Return the loss (scalar) and the detached margins r_c − r_r [P]; `num_pairs` counts the global batch's, so that parts
    add up.
    """
    margin_P = reward_M[chosen_P] - reward_M[rejected_P]
    return -logsigmoid(margin_P).sum() / num_pairs, margin_P.detach()
