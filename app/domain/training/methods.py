"""The methods that a run may train by, what each needs, and the learning rate that is proposed for it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Method(StrEnum):
    """What a run trains, on the same data, budget and seeds: VAR, the methods beside it, or a reward model."""

    VAR = "var"
    SFT = "sft"
    DPO = "dpo"
    IPO = "ipo"
    SIMPO = "simpo"
    ORPO = "orpo"
    KTO = "kto"
    RAFT = "raft"
    RLOO = "rloo"
    GRPO = "grpo"
    REWARD_MODEL = "reward_model"


ON_PAIRS = (Method.DPO, Method.IPO, Method.SIMPO, Method.ORPO)  # they train a policy
NEED_PAIRS = (*ON_PAIRS, Method.REWARD_MODEL)
WITH_REFERENCE = (Method.DPO, Method.IPO, Method.KTO)  # log π_ref of the data's own responses is in the loss
ON_GROUPS = (Method.RAFT, Method.RLOO, Method.GRPO)  # on fresh responses, compared within their prompts
OF_POLICIES = tuple(method for method in Method if method is not Method.REWARD_MODEL)

# Peaks of the learning rate where a recipe names none: a LoRA adapter takes ten times that of all weights, DPO a fifth of VAR's.
PROPOSED_RATES: dict[tuple[Method, str], float] = {
    (Method.REWARD_MODEL, "full"): 1e-5,
    **{(method, "full"): 1e-5 for method in (Method.VAR, Method.SFT, Method.RAFT)},
    **{(method, "full"): 2e-6 for method in WITH_REFERENCE},
    **{(method, "full"): 1e-6 for method in (Method.SIMPO, Method.RLOO, Method.GRPO)},
    (Method.ORPO, "full"): 8e-6,
}
PROPOSED_RATES |= {(method, "lora"): float(f"{10 * PROPOSED_RATES[method, 'full']:g}") for method in OF_POLICIES}


def propose_rate(method: str, adaptation: str) -> float | None:
    """Return the learning rate proposed for a method and what it trains; None where these don't go together."""
    return PROPOSED_RATES.get((Method(method), adaptation)) if method in list(Method) else None


def rate_beside(recipe: Mapping[str, Any], method: str) -> float | None:
    """Return another method's learning rate beside a recipe that names one: as far from its proposal as the recipe is from its.

    None: the recipe names none, so the other method takes what is proposed for it.
    """
    training, policy = recipe.get("training"), recipe.get("policy")
    rate = training.get("learning_rate") if isinstance(training, Mapping) else None
    adaptation = policy.get("adaptation", "full") if isinstance(policy, Mapping) else "full"
    own, its = propose_rate(str(recipe.get("method", Method.VAR)), adaptation), propose_rate(method, adaptation)
    if not isinstance(rate, int | float) or own is None or its is None:
        return None
    return rate if own == its else float(f"{rate * its / own:.6g}")
