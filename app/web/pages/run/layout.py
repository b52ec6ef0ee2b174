"""What a run shows by its method: charts under their headings, the two that lead its page, and the latest values."""

from dataclasses import dataclass, replace
from typing import Literal

from app.domain.metrics import CATALOGUE
from app.domain.recipe import Method
from app.domain.training.methods import ON_GROUPS, ON_PAIRS
from app.web.pages.run.charts import (
    FRESH,
    GROUPS,
    JUDGEMENT,
    LABELS,
    LEARNING,
    OTHER_PREFERENCES,
    PAIR_LOSS,
    PREFERENCES,
    REWARDS,
    WEIGHTS,
    Chart,
)


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
    Tile("eval/reward_gain", "Reward gain", "on validation prompts", "signed"),
    Tile("eval/win_rate", "Win rate", "on validation prompts", "percent"),
    Tile("eval/kl", "KL", "nats, on validation"),
)
CUT = Tile("data/cut_responses", "Responses cut", "at the longest response", "percent")
TILES: dict[str, tuple[Tile, ...]] = {
    Method.VAR: (
        LOSS,
        Tile("weight/ess_share", "Effective sample size", "share of the batch", "percent"),
        Tile("weight/spearman_reward", "Follows reward", "rank correlation"),
        Tile("weight/spearman_length", "Follows length", "rank correlation"),
        Tile("weight/share_chosen", "Weight on chosen", "of the whole weight", "percent"),
        CUT,
        *ANSWERS,
    ),
    Method.SFT: (LOSS, Tile("eval/loss", "Held-out loss", "per token of chosen responses"), CUT, *ANSWERS),
    **{
        method: (
            LOSS,
            Tile(f"{prefix}/accuracy", "Pairs told apart", "of the batch", "percent"),
            Tile(f"{prefix}/margin", "Margin", note),
            CUT,
            *ANSWERS,
        )
        for method, prefix, note in (
            (Method.DPO, "dpo", "chosen − rejected, in nats"),
            *((method, "pairs", "chosen − rejected") for method in ON_PAIRS if method is not Method.DPO),
        )
    },
    Method.KTO: (
        LOSS,
        Tile("kto/gain_desirable", "Gain of desirable", "β log π_θ/π_ref"),
        Tile("kto/gain_undesirable", "Gain of undesirable", "β log π_θ/π_ref"),
        CUT,
        *ANSWERS,
    ),
    **{
        method: (
            LOSS,
            Tile("online/reward_mean", "Reward of fresh responses", "mean of the batch"),
            Tile("group/flat_share", "Prompts that teach nothing", "of the batch", "percent"),
            Tile("online/length", "Length of fresh responses", "tokens"),
            CUT,
            *ANSWERS,
        )
        for method in ON_GROUPS
    },
    Method.REWARD_MODEL: (
        LOSS,
        Tile("reward_model/accuracy", "Pairs told apart", "of the batch", "percent"),
        Tile("reward_model/margin", "Margin", "chosen − rejected"),
        CUT,
        Tile("eval/pair_accuracy", "Held-out pairs told apart", "of validation pairs", "percent"),
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
OF_ANSWERS = Section("rewards", OF_REWARDS.title, OF_REWARDS.text, REWARDS[:4])
OF_LEARNING = Section("learning", "Learning", "The optimizer's view of the same steps.", LEARNING)
LOSS_CHART = LEARNING[0]
SFT_LOSS = replace(
    LOSS_CHART, text="Mean negative log-likelihood of the responses that are trained on, and of held-out chosen ones."
)
DPO_LOSS = replace(LOSS_CHART, text="Mean −log σ(margin); it starts at log 2.", lines=LOSS_CHART.lines[:1])
PAIRS_LOSS = replace(LOSS_CHART, text="Mean over the batch's pairs.", lines=LOSS_CHART.lines[:1])
KTO_LOSS = replace(LOSS_CHART, text="Mean over the labelled responses; it starts at one half.", lines=LOSS_CHART.lines[:1])
GROUP_LOSS = replace(
    LOSS_CHART,
    text="Of the fresh responses; advantages add up to nearly 0, so its size tells little.",
    lines=LOSS_CHART.lines[:1],
)
HELD_OUT_LOSS = Chart(
    "held_out_loss", "Held-out loss", CATALOGUE["eval/loss"].meaning, LOSS_CHART.lines[1:], sparse=True, axis="nats"
)
SECTIONS: dict[str, tuple[Section, ...]] = {
    Method.VAR: (OF_WEIGHTS, OF_REWARDS, OF_LEARNING),
    Method.SFT: (OF_ANSWERS, replace(OF_LEARNING, charts=(SFT_LOSS, *LEARNING[1:]))),
    **{
        method: (
            Section("preferences", "Preferences", "Whether the policy learns to tell chosen from rejected.", charts),
            OF_ANSWERS,
            replace(OF_LEARNING, charts=(loss, HELD_OUT_LOSS, *LEARNING[1:])),
        )
        for method, charts, loss in (
            (Method.DPO, PREFERENCES, DPO_LOSS),
            *((method, OTHER_PREFERENCES, PAIRS_LOSS) for method in ON_PAIRS if method is not Method.DPO),
        )
    },
    Method.KTO: (
        Section("labels", "Labels", "Whether desirable responses gain on the reference and undesirable ones lose.", LABELS),
        OF_ANSWERS,
        replace(OF_LEARNING, charts=(KTO_LOSS, HELD_OUT_LOSS, *LEARNING[1:])),
    ),
    **{
        method: (
            Section("fresh", "Fresh responses", "What the policy answers on the way, compared among themselves.", GROUPS),
            OF_ANSWERS,
            replace(OF_LEARNING, charts=(GROUP_LOSS, HELD_OUT_LOSS, *LEARNING[1:])),
        )
        for method in ON_GROUPS
    },
    Method.REWARD_MODEL: (
        Section("judgement", "Judgement", "Whether the model learns to tell chosen from rejected.", JUDGEMENT),
        replace(OF_LEARNING, charts=(PAIR_LOSS, *LEARNING[1:-1])),
    ),
}
OF_FRESH = Section("fresh", "Fresh responses", "What the policy answers on the way, weighted among themselves.", FRESH)


def sections_of(method: str, *, is_online: bool = False) -> tuple[Section, ...]:
    """Return the charts of a run of this method, under their headings."""
    sections = SECTIONS[method]
    return (*sections[:-1], OF_FRESH, sections[-1]) if is_online and method not in ON_GROUPS else sections


FIRST = {Method.VAR: WEIGHTS[0]} | {method: SECTIONS[method][0].charts[0] for method in (*ON_PAIRS, Method.KTO, *ON_GROUPS)}


def leading_charts(method: str, *, is_judged: bool) -> tuple[Chart, ...]:
    """Return the two charts of the overview; they stand in their sections too, under their own names."""
    if method == Method.REWARD_MODEL:
        chosen = (JUDGEMENT[1], PAIR_LOSS)
    else:
        first = FIRST.get(Method(method), SFT_LOSS)
        chosen = (first, REWARDS[0] if is_judged else REWARDS[3])
    return tuple(replace(chart, id=f"leading_{chart.id}") for chart in chosen)
