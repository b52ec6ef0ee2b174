"""What a run has changed, from its samples and metrics: the figures, the verdict, and how they are shown."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from app.domain.statistics.estimate import Estimate
from app.domain.statistics.paired import paired_gain, win_rate
from app.system.numbers import percent

NEEDED_PROMPTS = 100
NEEDED_GAIN = 1.0  # in standard deviations of the base's rewards
NEEDED_WIN_RATE = 0.75


@dataclass(frozen=True)
class AnswerPair:
    """One test prompt with the answers of the base and of the aligned policy, and what each is worth.

    Rewards come from the reward model; scores are the help desk's own, which no model has seen.
    """

    prompt: str
    base: str
    aligned: str
    base_reward: float
    aligned_reward: float
    base_score: float
    aligned_score: float

    @property
    def gain(self) -> float:
        return self.aligned_reward - self.base_reward


@dataclass(frozen=True)
class Result:
    """`metrics`: the final figures, and the mean over the steps of each weight metric."""

    answers: Sequence[AnswerPair]
    metrics: Mapping[str, float]
    findings: Sequence[Mapping[str, Any]]

    @property
    def deviation(self) -> float:
        """Standard deviation of the base's rewards over the prompts."""
        return statistics.stdev(answer.base_reward for answer in self.answers)

    @property
    def gain(self) -> float:
        """Rise of the mean reward, in standard deviations of the base's rewards."""
        return statistics.fmean(answer.gain for answer in self.answers) / (self.deviation or 1.0)

    @property
    def score_gain(self) -> float:
        """Rise of the mean true score, in standard deviations of the base's."""
        deviation = statistics.stdev(answer.base_score for answer in self.answers)
        return statistics.fmean(a.aligned_score - a.base_score for a in self.answers) / (deviation or 1.0)

    @property
    def wins(self) -> float:
        """Prompts on which the aligned policy's answer got the higher reward; a tie counts half."""
        return sum(1.0 if answer.gain > 0 else 0.5 if answer.gain == 0 else 0.0 for answer in self.answers)

    @property
    def win_rate(self) -> float:
        return self.wins / len(self.answers)

    def missed(self) -> list[str]:
        """Return what was needed and not reached, as clauses; empty when the aligned policy is clearly better."""
        clauses = []
        if len(self.answers) < NEEDED_PROMPTS:
            clauses.append(f"only {len(self.answers)} test prompts were answered, {NEEDED_PROMPTS} are needed")
        if self.gain < NEEDED_GAIN:
            clauses.append(f"the mean reward rose by {self.gain:.2f} standard deviations of the base's rewards, not by 1")
        if self.win_rate < NEEDED_WIN_RATE:
            clauses.append(f"the aligned policy wins {percent(self.win_rate, 1)} of the prompts, not 75 %")
        return clauses


def verdict(result: Result) -> str:
    """One sentence: is the aligned policy clearly better, and if not, what was missed."""
    if missed := result.missed():
        return f"Not clearly better: {'; '.join(missed)}."
    return (
        f"Clearly better: the mean reward rose by {result.gain:.2f} standard deviations of the base's rewards (1 was needed), "
        f"and the aligned policy wins {percent(result.win_rate, 1)} of {len(result.answers)} test prompts (75 % were needed)."
    )


def show(result: Result, console: Console) -> None:
    """Table, findings and three pairs of answers."""
    console.print(figures(result))
    for finding in result.findings:
        where = f" (first at step {finding['step']})" if finding.get("step") is not None else ""
        console.print(Text(f"Finding: {finding['title']}{where}. {finding['evidence']}", style="yellow"))
    if not result.findings:
        console.print("Findings: none; the weights look healthy.")
    for title, answer in choose_pairs(result.answers):
        console.print()
        console.print(Text(title, style="bold"))
        show_answer(answer, console)


def figures(result: Result) -> Table:
    """Base against aligned policy, and the run's own diagnostics."""
    answers, metrics = result.answers, result.metrics
    ours, theirs = [answer.aligned_reward for answer in answers], [answer.base_reward for answer in answers]
    gain, wins, deviation = paired_gain(ours, theirs), win_rate(ours, theirs), result.deviation or 1.0
    table = Table(title=f"{len(answers)} test prompts, read once, at the end", title_justify="left", title_style="bold")
    for name in ("", "base", "VAR", "change"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    base, aligned = (statistics.fmean(getattr(a, f"{policy}_reward") for a in answers) for policy in ("base", "aligned"))
    table.add_row("mean reward", f"{base:.2f}", f"{aligned:.2f}", f"{result.gain:+.2f} sd of the base")
    base, aligned = (statistics.fmean(getattr(a, f"{policy}_score") for a in answers) for policy in ("base", "aligned"))
    table.add_row("mean true score", f"{base:.2f}", f"{aligned:.2f}", f"{result.score_gain:+.2f} sd of the base")
    table.add_row("standard deviation of rewards", f"{result.deviation:.2f}")
    table.add_row(
        "gain in rewards (95 % interval)", "", f"{result.gain:+.2f} sd", interval(gain, lambda end: f"{end / deviation:+.2f}")
    )
    table.add_row("win rate (95 % interval)", "", percent(wins.value, 1), interval(wins, lambda end: percent(end, 1)))
    table.add_row(
        "tokens per answer", number(metrics, "test/length_reference", ".1f"), number(metrics, "test/length_policy", ".1f")
    )
    kl = Estimate(metrics.get("test/kl", 0.0), metrics.get("test/kl_low"), metrics.get("test/kl_high"))
    table.add_row(
        "KL from the base (95 % interval)", "", number(metrics, "test/kl", ".2f"), interval(kl, lambda end: f"{end:.2f}")
    )
    table.add_row("effective sample size, share of the batch", "", number(metrics, "weight/ess_share", ".2f"))
    table.add_row("weight follows length (Spearman's ρ)", "", number(metrics, "weight/spearman_length", "+.2f"))
    table.add_row("weight follows reward (Spearman's ρ)", "", number(metrics, "weight/spearman_reward", "+.2f"))
    return table


def interval(estimate: Estimate, write: Callable[[float], str]) -> str:
    """Return the ends of an interval; nothing where there is none."""
    return "" if estimate.low is None or estimate.high is None else f"{write(estimate.low)} to {write(estimate.high)}"


def number(metrics: Mapping[str, float], key: str, form: str) -> str:
    return format(metrics[key], form) if key in metrics else "-"


def choose_pairs(answers: Sequence[AnswerPair]) -> list[tuple[str, AnswerPair]]:
    """Return the typical case, the best and the worst: nothing is hidden."""
    ordered = sorted(answers, key=lambda answer: answer.gain)
    chosen = (("A typical gain", len(ordered) // 2), ("The largest gain", -1), ("The largest loss", 0))
    return [(f"{title} ({ordered[rank].gain:+.1f} reward)", ordered[rank]) for title, rank in chosen]


def show_answer(answer: AnswerPair, console: Console) -> None:
    rows = (
        ("customer", answer.prompt, ""),
        (f"base {answer.base_reward:+.1f}", answer.base, "dim"),
        (f"VAR {answer.aligned_reward:+.1f}", answer.aligned, "green"),
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for policy, text, style in rows:
        table.add_row(Text(policy), Text(text, style=style))
    console.print(Padding(table, (0, 0, 0, 2)))
