"""The charts of run pages: their series by catalogue key, their colours by role, and their reference lines."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from app.domain.findings import COLLAPSED_SHARE, LENGTH_CORRELATION, PLAIN_SHARE
from app.domain.metrics import CATALOGUE

Tone = Literal["chosen", "rejected", "policy", "reference", "accent", "muted"]


@dataclass(frozen=True)
class Line:
    """One series of a chart; `tone` is the colour's role in the style sheet."""

    key: str
    label: str
    tone: Tone
    dashed: bool = False


@dataclass(frozen=True)
class Threshold:
    """A reference line: beyond it a finding is raised."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """One figure. `band` names the lower and the upper series of an interval around the first line."""

    id: str
    title: str
    text: str
    lines: tuple[Line, ...] = ()
    kind: Literal["line", "histogram", "heatmap"] = "line"
    low: float | None = None
    high: float | None = None
    unit: str = ""
    thresholds: tuple[Threshold, ...] = ()
    band: tuple[str, str] | None = None
    sparse: bool = False  # drawn at evaluations only
    wide: bool = False
    axis: str = ""  # the name of the vertical axis, with its unit
    span: float | None = None  # the least that the vertical axis spans

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def meaning(key: str) -> str:
    return CATALOGUE[key].meaning


JUDGED = frozenset({"eval/reward_policy", "eval/reward_reference", "eval/reward_gain", "eval/win_rate"})  # need a reward model
OF_PREFERENCES = frozenset({"eval/preference_accuracy"})  # needs no answers, but labels


def _guessed(id: str, title: str, text: str, line: Line, band: tuple[str, str] | None = None) -> Chart:
    """Return the chart of a share that is one half where nothing is known; with a band it is of held-out examples."""
    half = (Threshold(0.5, "guessing"),)
    return Chart(id, title, text, (line,), low=0, high=1, unit="share", thresholds=half, band=band, sparse=band is not None)


WEIGHTS = (
    Chart(
        "histogram",
        "Weights of the last batch",
        "Each response of the batch by its weight w, on a logarithmic scale.",
        kind="histogram",
    ),
    Chart(
        "heatmap",
        "Weights over time",
        "One histogram per column: the stronger the colour, the more responses.",
        kind="heatmap",
    ),
    Chart(
        "correlation",
        "What the weight follows",
        "Rank correlation of weight with reward (it should lead) and with length (it should stay between the lines).",
        (
            Line("weight/spearman_reward", "with reward", "policy"),
            Line("weight/spearman_length", "with length", "rejected"),
        ),
        low=-1,
        high=1,
        thresholds=(Threshold(LENGTH_CORRELATION, "length-driven"), Threshold(-LENGTH_CORRELATION, "length-driven")),
    ),
    Chart(
        "ess",
        "Effective sample size",
        meaning("weight/ess_share"),
        (Line("weight/ess_share", "share", "policy"),),
        low=0,
        high=1,
        unit="share",
        thresholds=(Threshold(COLLAPSED_SHARE, "collapse"),),
    ),
    Chart(
        "sides",
        "Weight on chosen and rejected",
        "How the batch's weight is split. Without a reward signal both get one half.",
        (Line("weight/share_chosen", "chosen", "chosen"), Line("weight/share_rejected", "rejected", "rejected")),
        low=0,
        high=1,
        unit="share",
    ),
    Chart(
        "extremes",
        "Responses at the extremes",
        "Share of responses with nearly all, or nearly nothing, of Z(x). If nearly all lie above 0.99, it is plain fine-tuning.",
        (Line("weight/share_above", "above 0.99", "policy"), Line("weight/share_below", "below 0.01", "reference")),
        low=0,
        high=1,
        unit="share",
        thresholds=(Threshold(PLAIN_SHARE, "plain fine-tuning"),),
    ),
)

REWARDS = (
    Chart(
        "evaluation",
        "Reward on held-out prompts",
        "Mean reward of the policy's answers beside the frozen reference's, to the same prompts.",
        (Line("eval/reward_policy", "policy", "policy"), Line("eval/reward_reference", "reference", "reference")),
        sparse=True,
        axis="reward",
    ),
    Chart(
        "wins",
        "Win rate against the reference",
        "Share of validation prompts where the policy's answer has the higher reward, with its 95 % interval.",
        (Line("eval/win_rate", "win rate", "policy"),),
        low=0,
        high=1,
        unit="share",
        thresholds=(Threshold(0.5, "even"),),
        band=("eval/win_rate_low", "eval/win_rate_high"),
        sparse=True,
    ),
    Chart(
        "kl",
        "KL from the reference",
        "How far the policy has moved, per answer that it draws at temperature 1; with its 95 % interval.",
        (Line("eval/kl", "KL", "policy"),),
        band=("eval/kl_low", "eval/kl_high"),
        sparse=True,
        axis="nats",
    ),
    _guessed(
        "held_out_preferences",
        "Preferences told apart",
        f"{meaning('eval/preference_accuracy')} With its 95 % interval; one half is guessing.",
        Line("eval/preference_accuracy", "held-out", "chosen"),
        band=("eval/preference_accuracy_low", "eval/preference_accuracy_high"),
    ),
    Chart(
        "rewards",
        "Rewards of the batch",
        "Mean reward of the chosen and of the rejected responses, and the gap between them.",
        (
            Line("reward/chosen", "chosen", "chosen"),
            Line("reward/rejected", "rejected", "rejected"),
            Line("reward/gap", "gap", "muted", dashed=True),
        ),
    ),
)

LEARNING = (
    Chart(
        "loss", "Loss", meaning("loss"), (Line("loss", "batch", "policy"), Line("eval/loss", "held-out", "chosen")), axis="nats"
    ),
    Chart("learning_rate", "Learning rate", meaning("learning_rate"), (Line("learning_rate", "learning rate", "policy"),)),
    Chart("grad_norm", "Gradient norm", meaning("grad_norm"), (Line("grad_norm", "norm", "policy"),)),
    Chart(
        "speed",
        "Throughput",
        meaning("tokens_per_second"),
        (Line("tokens_per_second", "tokens/s", "policy"),),
        low=0,
        axis="tokens/s",
    ),
    Chart(
        "memory",
        "Peak memory",
        meaning("peak_memory_bytes"),
        (Line("peak_memory_bytes", "memory", "policy"),),
        low=0,
        unit="bytes",
    ),
    Chart(
        "lengths",
        "Length of answers",
        "Mean length of the answers to held-out prompts, in tokens. A falling policy often means that weights follow length.",
        (Line("eval/length_policy", "policy", "policy"), Line("eval/length_reference", "reference", "reference")),
        sparse=True,
        axis="tokens",
        span=16,
    ),
    Chart(
        "unfinished",
        "Unfinished answers",
        meaning("eval/unfinished_policy"),
        (Line("eval/unfinished_policy", "policy", "policy"), Line("eval/unfinished_reference", "reference", "reference")),
        sparse=True,
        low=0,
        unit="share",
    ),
)


SHARE_RIGHT = "Share of the batch's pairs whose chosen response has the higher {}; one half is guessing."


def _of_pairs(prefix: str, reward: str, moved: str, axis: str) -> tuple[Chart, ...]:
    """Return the charts of a loss on pairs whose metrics have this prefix."""
    return (
        _guessed(
            f"{prefix}_accuracy", "Pairs told apart", SHARE_RIGHT.format(reward), Line(f"{prefix}/accuracy", "right", "policy")
        ),
        Chart(
            f"{prefix}_margin",
            "Margin",
            "Implicit reward of the chosen minus that of the rejected response, mean of the batch.",
            (Line(f"{prefix}/margin", "margin", "policy"),),
            axis=axis,
        ),
        Chart(
            f"{prefix}_gains",
            "Implicit rewards",
            moved,
            (Line(f"{prefix}/gain_chosen", "chosen", "chosen"), Line(f"{prefix}/gain_rejected", "rejected", "rejected")),
            axis=axis,
        ),
    )


PREFERENCES = _of_pairs(
    "dpo",
    "implicit reward β log π_θ/π_ref",
    "How far the policy has moved from the reference on either side. Where both fall, it forgets the chosen ones as well.",
    "nats",
)
OTHER_PREFERENCES = _of_pairs(
    "pairs", "implicit reward", "What the method takes for the rewards of both sides: they should part.", ""
)

LABELS = (
    Chart(
        "kto_gains",
        "Gains by label",
        "How far the policy has moved from the reference, times β: desirable responses should rise above undesirable ones.",
        (Line("kto/gain_desirable", "desirable", "chosen"), Line("kto/gain_undesirable", "undesirable", "rejected")),
        axis="nats",
    ),
    Chart(
        "kto_kl",
        "Reference point",
        "The distance from the reference that gains are judged by.",
        (Line("kto/kl", "KL", "policy"),),
        axis="nats",
    ),
)

JUDGEMENT = (
    _guessed(
        "reward_accuracy", "Pairs told apart", SHARE_RIGHT.format("reward"), Line("reward_model/accuracy", "batch", "policy")
    ),
    _guessed(
        "held_out_accuracy",
        "Held-out pairs told apart",
        "The same of pairs the model has never seen, with its 95 % interval.",
        Line("eval/pair_accuracy", "held-out", "chosen"),
        band=("eval/pair_accuracy_low", "eval/pair_accuracy_high"),
    ),
    Chart(
        "reward_margin",
        "Margin",
        "Reward of the chosen minus that of the rejected response, mean of the pairs.",
        (Line("reward_model/margin", "batch", "policy"), Line("eval/pair_margin", "held-out", "chosen")),
        axis="reward",
    ),
)

FRESH = (
    Chart(
        "fresh_reward",
        "Reward of fresh responses",
        "Mean reward of what the policy itself answers to the training prompts, round by round.",
        (Line("online/reward_mean", "fresh", "policy"),),
        sparse=True,
        axis="reward",
    ),
    Chart(
        "fresh_ess",
        "Effective sample size of fresh responses",
        "How many of a prompt's fresh responses count; near 0 one of them takes all.",
        (Line("online/ess_share", "share", "policy"),),
        low=0,
        high=1,
        unit="share",
        sparse=True,
    ),
    Chart(
        "fresh_kl",
        "Distance of fresh responses",
        "How much likelier the policy finds its fresh responses than the reference does, mean per response.",
        (Line("online/kl", "KL", "policy"),),
        sparse=True,
        axis="nats",
    ),
)

GROUPS = (
    FRESH[0],
    Chart(
        "flat_groups",
        "Prompts that teach nothing",
        "Share of the batch's prompts whose fresh responses all have the same reward.",
        (Line("group/flat_share", "share", "policy"),),
        low=0,
        high=1,
        unit="share",
    ),
    FRESH[2],
    Chart(
        "fresh_length",
        "Length of fresh responses",
        CATALOGUE["online/length"].meaning,
        (Line("online/length", "tokens", "policy"),),
        axis="tokens",
    ),
)

PAIR_LOSS = Chart(
    "pair_loss",
    "Loss",
    "Mean −log σ(chosen − rejected); log 2 is guessing.",
    (Line("loss", "batch", "policy"), Line("eval/pair_loss", "held-out", "chosen")),
    axis="nats",
)


def keys(charts: Iterable[Chart]) -> list[str]:
    """Return every series that these charts draw."""
    return list(dict.fromkeys(key for chart in charts for key in (*(line.key for line in chart.lines), *(chart.band or ()))))
