"""The runs that a launch may set beside VAR, on the same data, budget and seeds."""

from typing import Any

PREFERENCE_TITLES = (("dpo", "DPO"), ("ipo", "IPO"), ("simpo", "SimPO"), ("orpo", "ORPO"), ("kto", "KTO"))
GROUP_TITLES = (("raft", "RAFT"), ("rloo", "RLOO"), ("grpo", "GRPO"))
# As changes of the recipe, by the name that a request gives.
BASELINES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft_chosen": ("SFT on chosen", {"method": "sft", "weights": {"responses": "chosen"}}),
    "sft_all": ("SFT on all", {"method": "sft", "weights": {"responses": "both"}}),
    **{name: (title, {"method": name, "weights": {}}) for name, title in (*PREFERENCE_TITLES, *GROUP_TITLES)},
    "reward_weighted": ("Reward-weighted, no π_ref", {"weights": {"preset": "reward_weighted"}}),
}
