import pytest
import torch
from torch import nn

from app.domain.training.settings import TrainingSettings
from worker.stages.training.optimizer import Optimizer, learning_rate_at


def rates(schedule: str, num_steps: int = 10, **options) -> list[float]:
    settings = TrainingSettings(learning_rate=1.0, schedule=schedule, warmup_share=0.2, **options)
    return [learning_rate_at(step, num_steps, settings) for step in range(num_steps)]


def test_the_rate_warms_up_and_then_follows_its_schedule():
    assert rates("constant") == [0.5, *[1.0] * 9]
    assert rates("linear")[:4] == [0.5, 1.0, 1.0, 0.875]
    cosine = rates("cosine")
    assert cosine[2] == 1.0
    assert cosine[6] == pytest.approx(0.5)
    assert 0 < cosine[-1] < 0.05


def test_a_run_of_one_step_has_a_rate():
    assert rates("cosine", 1) == [1.0]


def made(dtype=torch.float32, **options) -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).to(dtype)
    return layer, Optimizer(dict(layer.named_parameters()), TrainingSettings(learning_rate=1e-2, **options))


def step(layer: nn.Module, optimizer: Optimizer, k: int) -> float:
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(k)).to(layer.weight.dtype)
    layer(inputs).square().sum().backward()
    norm = optimizer.grad_norm()
    optimizer.step(1e-2, norm)
    return float(norm)


def test_what_is_restored_goes_on_bit_equal():
    layer, optimizer = made()
    for k in range(3):
        step(layer, optimizer, k)
    saved = {name: tensor.clone() for name, tensor in optimizer.save().items()}
    for k in range(3, 6):
        step(layer, optimizer, k)
    other, again = made()
    again.restore(saved)
    for k in range(3, 6):
        step(other, again, k)
    assert torch.equal(layer.weight, other.weight)
    assert torch.equal(layer.bias, other.bias)


def test_steps_too_small_for_bfloat16_still_add_up():
    layer, optimizer = made(torch.bfloat16, grad_clip=0)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        optimizer.masters["weight"].fill_(1.0)
    for _ in range(100):
        layer.weight.grad, layer.bias.grad = torch.ones_like(layer.weight), torch.zeros_like(layer.bias)
        optimizer.step(1e-4, optimizer.grad_norm())
    assert layer.weight.dtype == torch.bfloat16
    assert layer.weight[0, 0].item() == pytest.approx(0.99, abs=0.004)  # a lone step of 1e-4 rounds away at 1.0


def test_the_gradient_is_clipped_to_its_bound():
    layer, optimizer = made(grad_clip=1e-3)
    layer.weight.grad, layer.bias.grad = torch.full_like(layer.weight, 5.0), torch.zeros_like(layer.bias)
    norm = optimizer.grad_norm()
    assert float(norm) == pytest.approx(5 * 6**0.5)
    nn.utils.clip_grads_with_norm_(list(optimizer.masters.values()), 1e-3, norm)
    assert float(optimizer.grad_norm()) == pytest.approx(1e-3, rel=1e-3)


def test_weight_decay_spares_biases():
    _, optimizer = made(weight_decay=0.1)
    assert [(group["weight_decay"], len(group["params"])) for group in optimizer.adam.param_groups] == [(0.1, 1), (0.0, 1)]
