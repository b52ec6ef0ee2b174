"""What a run's page shows by the method of the run: charts under their headings, and the latest values on top."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from app.domain.metrics import CATALOGUE
from app.domain.recipe import Method
from app.web.pages.charts import FRESH, JUDGEMENT, LEARNING, PAIR_LOSS, PREFERENCES, REWARDS, WEIGHTS, Chart


@dataclass(frozen=True)
class Section:
    """Charts under one heading."""

    id: str
    title: str
    text: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Tile:
    """One of the latest values at the top of the page."""

    key: str
    label: str
    note: str
    format: Literal["number", "signed", "percent"] = "number"


LOSS = Tile("loss", "Loss", "of the batch")
ANSWERS = (
    Tile("eval/reward_gain", "Reward gain", "policy − reference", "signed"),
    Tile("eval/win_rate", "Win rate", "against the reference", "percent"),
    Tile("eval/kl", "KL", "nats per response, an estimate"),
)
TILES: dict[str, tuple[Tile, ...]] = {
    Method.VAR: (
        LOSS,
        Tile("weight/ess_share", "Effective share", "of the batch", "percent"),
        Tile("weight/spearman_reward", "Follows reward", "rank correlation"),
        Tile("weight/spearman_length", "Follows length", "rank correlation"),
        Tile("weight/share_chosen", "Weight on chosen", "of the whole weight", "percent"),
        *ANSWERS,
    ),
    Method.SFT: (LOSS, Tile("eval/loss", "Held-out loss", "per token of chosen responses"), *ANSWERS),
    Method.DPO: (
        LOSS,
        Tile("dpo/accuracy", "Pairs told apart", "of the batch", "percent"),
        Tile("dpo/margin", "Margin", "chosen − rejected, in nats"),
        *ANSWERS,
    ),
    Method.REWARD_MODEL: (
        LOSS,
        Tile("reward_model/accuracy", "Pairs told apart", "of the batch", "percent"),
        Tile("reward_model/margin", "Margin", "chosen − rejected"),
        Tile("eval/pair_accuracy", "Held-out pairs told apart", "of all held-out pairs", "percent"),
        Tile("eval/pair_margin", "Held-out margin", "chosen − rejected"),
        Tile("eval/pair_loss", "Held-out loss", "per pair"),
    ),
}

OF_WEIGHTS = Section(
    "weights", "Weights", "Who counts in a batch, and why: degenerate weights show here long before they show in a loss.", WEIGHTS
)
OF_REWARDS = Section(
    "rewards", "Rewards", "Whether the policy gains reward, and what it pays in distance from the reference.", REWARDS
)
OF_ANSWERS = Section("rewards", OF_REWARDS.title, OF_REWARDS.text, REWARDS[:3])
OF_LEARNING = Section("learning", "Learning", "The optimizer's view of the same steps.", LEARNING)
LOSS_CHART = LEARNING[0]
SFT_LOSS = replace(
    LOSS_CHART, text="Mean negative log-likelihood of the responses that are trained on, and of held-out chosen ones."
)
DPO_LOSS = replace(LOSS_CHART, text="Mean −log σ(margin); it starts at log 2.", lines=LOSS_CHART.lines[:1])
HELD_OUT_LOSS = Chart(
    "held_out_loss", "Held-out loss", CATALOGUE["eval/loss"].meaning, LOSS_CHART.lines[1:], sparse=True, axis="nats"
)
SECTIONS: dict[str, tuple[Section, ...]] = {
    Method.VAR: (OF_WEIGHTS, OF_REWARDS, OF_LEARNING),
    Method.SFT: (OF_ANSWERS, replace(OF_LEARNING, charts=(SFT_LOSS, *LEARNING[1:]))),
    Method.DPO: (
        Section("preferences", "Preferences", "Whether the policy learns to tell chosen from rejected.", PREFERENCES),
        OF_ANSWERS,
        replace(OF_LEARNING, charts=(DPO_LOSS, HELD_OUT_LOSS, *LEARNING[1:])),
    ),
    Method.REWARD_MODEL: (
        Section("judgement", "Judgement", "Whether the model learns to tell chosen from rejected.", JUDGEMENT),
        replace(OF_LEARNING, charts=(PAIR_LOSS, *LEARNING[1:-1])),
    ),
}
OF_FRESH = Section("fresh", "Fresh responses", "What the policy answers on the way, weighted among themselves.", FRESH)


def sections_of(method: str, *, is_online: bool = False) -> tuple[Section, ...]:
    """The charts of a run of this method, under their headings."""
    sections = SECTIONS[method]
    return (*sections[:-1], OF_FRESH, sections[-1]) if is_online else sections


def keys(charts: Iterable[Chart]) -> list[str]:
    """Every series that these charts draw."""
    return list(dict.fromkeys(key for chart in charts for key in (*(line.key for line in chart.lines), *(chart.band or ()))))
