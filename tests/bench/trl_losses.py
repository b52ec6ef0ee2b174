"""What TRL's own code makes of the responses of tests/var/trl.py: `python -m tests.bench.trl_losses` writes it beside them.

Its trainers' loss functions are called with stand-ins for all but the log-probabilities, which are leaves: so the gradient is
theirs too. Needs what `make bench` installs.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor

from tests.var import trl as fixed

KEPT = Path(__file__).parents[1] / "var" / "trl_losses.json"
MOST = max(fixed.LENGTHS)

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # that some of its trainers may change is what this is here to notice


def pad(value_N: Tensor) -> Tensor:
    """Tokens as TRL has them: [M, T], zeros behind each response."""
    return torch.nn.utils.rnn.pad_sequence(value_N.split(list(fixed.LENGTHS)), batch_first=True)


def differentiate(loss_of: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    leaf_N = fixed.LOGPROB_N.clone().requires_grad_()
    loss = loss_of(leaf_N)
    loss.backward()
    return {"loss": float(loss.detach()), "gradient": leaf_N.grad.tolist()}


def stand_in(**attributes: Any) -> MagicMock:
    trainer = MagicMock()
    for name, value in {"aux_loss_enabled": False, "_metrics": defaultdict(lambda: defaultdict(list)), **attributes}.items():
        setattr(trainer, name, value)
    return trainer


def means(leaf_N: Tensor) -> Tensor:
    return fixed.sums(leaf_N) / torch.tensor(fixed.LENGTHS)


def ipo(leaf_N: Tensor) -> Tensor:
    from trl.experimental.cpo import CPOTrainer

    ratio_M = means(leaf_N) - means(fixed.REFERENCE_N)
    trainer = stand_in(alpha=0.0, loss_type="ipo", beta=fixed.BETAS["ipo"], accelerator=SimpleNamespace(device="cpu"))
    return CPOTrainer.cpo_loss(trainer, ratio_M[fixed.CHOSEN_P], ratio_M[fixed.REJECTED_P])[0].mean()


def simpo(leaf_N: Tensor) -> Tensor:
    from trl.experimental.cpo import CPOTrainer

    mean_M, device = means(leaf_N), SimpleNamespace(device="cpu")
    trainer = stand_in(
        alpha=0.0, loss_type="simpo", beta=fixed.BETAS["simpo"], simpo_gamma=fixed.GAMMA, label_smoothing=0.0, accelerator=device
    )
    return CPOTrainer.cpo_loss(trainer, mean_M[fixed.CHOSEN_P], mean_M[fixed.REJECTED_P])[0].mean()


def orpo(leaf_N: Tensor) -> Tensor:
    """TRL's own likelihood is of the prompt as well; ours of the chosen responses' tokens, which stands in its place."""
    from trl.experimental.orpo import ORPOTrainer

    mean_M, chosen_N = means(leaf_N), torch.isin(fixed.OWNER_N, fixed.CHOSEN_P)
    trainer = stand_in(beta=fixed.BETAS["orpo"], accelerator=SimpleNamespace(device="cpu"))
    ratio_P = ORPOTrainer.odds_ratio_loss(trainer, mean_M[fixed.CHOSEN_P], mean_M[fixed.REJECTED_P])[0]
    return -leaf_N[chosen_N].mean() - ratio_P.mean()


def kto(leaf_N: Tensor) -> Tensor:
    from trl import KTOTrainer

    mask_MT = torch.cat([torch.zeros(len(fixed.LENGTHS), 1), pad(torch.ones_like(fixed.LOGPROB_N))], dim=1)
    nothing_MT = torch.zeros(len(fixed.LENGTHS), MOST)
    outputs = SimpleNamespace(log_probs=pad(leaf_N), entropy=nothing_MT, mean_logits=nothing_MT, argmax_ids=nothing_MT)
    accelerator = MagicMock(device="cpu")
    accelerator.gather_for_metrics = lambda value: value
    trainer = stand_in(
        accelerator=accelerator, beta=fixed.BETAS["kto"], desirable_weight=fixed.WEIGHTS[0], undesirable_weight=fixed.WEIGHTS[1],
        loss_type="kto", calculate_KL=True, precompute_ref_logps=True, _compute_kl_logps=lambda *_: fixed.STRANGE_M,
    )  # fmt: skip
    inputs = {
        "label": torch.tensor([True, False] * 3), "input_ids": torch.zeros_like(mask_MT, dtype=torch.long),
        "attention_mask": mask_MT, "completion_mask": mask_MT, "ref_logps": fixed.sums(fixed.REFERENCE_N),
        "ref_KL_logps": fixed.STRANGE_REFERENCE_M,
    }  # fmt: skip
    return KTOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)


def on_groups(kind: str, leaf_N: Tensor, **settings: Any) -> Tensor:
    import trl

    accelerator = MagicMock(num_processes=1)
    accelerator.gather = accelerator.gather_for_metrics = lambda value: value
    accelerator.reduce = lambda value, reduction: value
    trainer = stand_in(
        accelerator=accelerator, epsilon_low=fixed.CLIP, epsilon_high=fixed.CLIP, current_gradient_accumulation_steps=1,
        _get_per_token_logps_and_entropies=lambda *_, **__: (pad(leaf_N), torch.zeros(len(fixed.LENGTHS), MOST), None),
        **settings,
    )  # fmt: skip
    trainer.model.training = True
    mask_MT, reward_M = pad(torch.ones_like(fixed.LOGPROB_N)), torch.tensor(fixed.REWARDS, dtype=torch.float64)
    if kind == "RLOO":
        reward_M = reward_M - fixed.KAPPA * ((pad(fixed.SAMPLER_N) - pad(fixed.REFERENCE_N)) * mask_MT).sum(-1)
    grouped = reward_M.view(2, 3)
    if kind == "RLOO":  # as its _generate_and_score_completions has it
        advantage = grouped - (grouped.sum(1, keepdim=True) - grouped) / 2
    else:
        advantage = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    ids = torch.zeros_like(mask_MT, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1], "prompt_mask": mask_MT[:, :1], "completion_ids": ids, "completion_mask": mask_MT,
        "advantages": advantage.view(-1), "old_logps": fixed.sums(fixed.SAMPLER_N),
        "old_per_token_logps": pad(fixed.SAMPLER_N), "ref_per_token_logps": pad(fixed.REFERENCE_N),
    }  # fmt: skip
    return getattr(trl, f"{kind}Trainer")._compute_loss(trainer, trainer.model, inputs)


def rloo(leaf_N: Tensor) -> Tensor:
    return on_groups("RLOO", leaf_N)


def grpo(leaf_N: Tensor) -> Tensor:
    return on_groups(
        "GRPO", leaf_N, beta=fixed.KAPPA, loss_type="bnpo", importance_sampling_level="token", top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, use_vllm=False, _entropy_bonus_enabled=False,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
    )  # fmt: skip


def theirs() -> dict[str, dict[str, Any]]:
    return {made.__name__: differentiate(made) for made in (ipo, simpo, orpo, kto, rloo, grpo)}


if __name__ == "__main__":
    KEPT.write_text(json.dumps(theirs(), indent=1) + "\n")
