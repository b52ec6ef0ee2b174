"""How fast the weighted loss is against the whole table of log-softmax with autograd: `make bench ARGS=tests/var`."""

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from worker.var.logprobs import weighted_nll

N, V, D, ROUNDS = 1800, 32_000, 512, 3


def seconds(work: Callable[[], Tensor]) -> float:
    """CPU seconds of a forward and backward pass."""
    start = time.process_time()
    work().backward()
    return time.process_time() - start


@pytest.mark.bench
@pytest.mark.parametrize(("response_share", "least"), [(1.0, 0.8), (0.43, 1.8)])
def test_the_chunked_loss_is_faster_than_the_whole_table(response_share: float, least: float) -> None:
    """One thread, interleaved, median ratio. The whole table takes every position; the chunked loss only those of responses."""
    torch.set_num_threads(1)
    chance = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(N, D, generator=chance)
    head_VD = 0.02 * torch.randn(V, D, generator=chance)
    target_N = torch.randint(0, V, (N,), generator=chance)
    response_N = torch.rand(N, generator=chance) < response_share
    coefficient_N = torch.rand(N, generator=chance) / N * response_N

    def whole() -> Tensor:
        hidden, head = hidden_ND.clone().requires_grad_(), head_VD.clone().requires_grad_()
        return -(coefficient_N * torch.log_softmax(hidden @ head.t(), dim=1).gather(1, target_N[:, None])[:, 0]).sum()

    def chunked() -> Tensor:
        hidden, head = hidden_ND.clone().requires_grad_(), head_VD.clone().requires_grad_()
        return weighted_nll(hidden[response_N], head, target_N[response_N], coefficient_N[response_N])[0]

    whole().backward()
    chunked().backward()
    times = [(seconds(whole), seconds(chunked)) for _ in range(ROUNDS)]
    ratio = statistics.median(slow / fast for slow, fast in times)
    slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"\n{response_share:.0%} response positions: whole {slow:.2f} s, chunked {fast:.2f} s, ratio {ratio:.2f}")
    assert ratio > least
