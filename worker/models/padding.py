"""How many tokens a forward pass takes, and which rows go through one together, so that little of them is padding."""

from collections.abc import Sequence

import torch

ON_GPU, ON_CPU = 65_536, 2_048  # on a CPU, what stays in the cache is quickest
BESIDE_TRAINING = 8_192  # where a policy is trained, its gradients and moments have most of the memory


def token_budget(device: torch.device, on_cpu: int = ON_CPU) -> int:
    """Return the tokens of one forward pass of a model that has the device for itself."""
    return ON_GPU if device.type == "cuda" else on_cpu


def group_rows(widths: Sequence[int], budget: int, *, alike: bool = False) -> list[list[int]]:
    """Rows by their widths, widest first, in groups that padded to their widest stay in the budget; one row at least.

    `alike`: the rows of a group are of one width.
    """
    groups: list[list[int]] = []
    widest = 0
    for row in sorted(range(len(widths)), key=lambda row: (-widths[row], row)):
        fits = widest * (len(groups[-1]) + 1) <= budget if groups else False
        if fits and not (alike and widths[row] < widest):
            groups[-1].append(row)
        else:
            groups.append([row])
            widest = widths[row]
    return groups
