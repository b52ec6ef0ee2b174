"""A run in the terminal: its events as a table that moves, or as lines where the output isn't a terminal."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from app.domain.metrics import CATALOGUE
from app.domain.run import RunState
from app.domain.statistics.final import Metrics, write_final, write_size
from app.system.numbers import percent

SHOWN = (
    "loss", "learning_rate", "grad_norm", "weight/ess_share", "weight/share_chosen", "weight/max", "reward/gap",
    "dpo/accuracy", "dpo/margin", "reward_model/accuracy", "online/reward_mean", "online/ess_share", "tokens_per_second",
    "eval/reward_reference", "eval/reward_policy", "eval/win_rate", "eval/kl", "eval/pair_accuracy", "eval/pair_accuracy_low",
    "eval/pair_accuracy_high",
)  # fmt: skip
NOTES_KEPT = 6
LINE_SECONDS = 2.0


class RunProgress:
    """What is known of a run from the events taken so far. Use it as a context, and give it events as they come."""

    def __init__(self, title: str, console: Console) -> None:
        self.title = title
        self.console = console
        self.stage = ""
        self.done, self.total = 0, 0
        self.seconds_left: float | None = None
        self.metrics: dict[str, float] = {}
        self.notes: list[Text] = []
        self.state = ""
        self.reason, self.remedy, self.can_retry = "", "", False
        self.stop_wanted = False  # by the user, at this terminal
        self.last_line_at = 0.0
        self.live = Live(console=console, get_renderable=self.render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.live.stop()
        if self.console.is_terminal:
            self.console.print(self.render())

    def take(self, kind: str, payload: dict[str, Any]) -> None:
        """One event, from the journal or from a spool."""
        if kind in {"step", "evaluation"}:
            self.metrics.update({key: value for key, value in payload["metrics"].items() if value is not None})
        if kind == "stage":
            self.stage, self.done, self.total = payload["stage"], 0, payload.get("total") or 0
            self.note(f"Stage {self.stage}")
        elif kind == "progress":
            self.done, self.total = payload["done"], payload["total"]
        elif kind == "step":
            self.done, self.total = payload["step"], payload["num_steps"]
            self.seconds_left = payload.get("seconds_left")
            self.line_now_and_then()
        elif kind == "final":
            self.note(f"Final figures of {write_size(payload['metrics'])}: {final_line(payload['metrics'])}")
        elif kind == "evaluation":
            self.note(f"Evaluation at step {payload['step']}: {self.metrics_line('eval/')}")
        elif kind in {"state", "outcome"}:
            self.take_state(payload, is_last=kind == "outcome")
        elif note := note_of(kind, payload):
            self.note(*note)

    def take_state(self, payload: dict[str, Any], *, is_last: bool) -> None:
        """A new state. A bad end is not noted: `ending` is for the command to tell, once."""
        self.state = payload.get("state") or payload["outcome"]
        self.reason, self.remedy = payload.get("reason", ""), payload.get("remedy", "")
        self.can_retry = payload.get("retry", False)
        if self.state == "succeeded" or not (is_last or RunState(self.state).final):
            self.note(" ".join(part for part in (self.state.capitalize() + ".", self.reason, self.remedy) if part))

    @property
    def ending(self) -> str:
        """How the run ended, why, and what to do, in sentences."""
        how = f"The run has {self.state}." if self.state in {"failed", "succeeded"} else f"The run was {self.state}."
        return " ".join(part for part in (how, as_sentence(self.reason), self.remedy) if part)

    def note(self, text: str, style: str = "") -> None:
        self.notes = [*self.notes, Text(text, style=style)][-NOTES_KEPT:]
        if not self.console.is_terminal:
            self.console.print(Text(text))

    def line_now_and_then(self) -> None:
        if not self.console.is_terminal and time.monotonic() - self.last_line_at > LINE_SECONDS:
            self.last_line_at = time.monotonic()
            self.console.print(Text(f"Step {self.done}/{self.total}: {self.metrics_line('')}"))

    def metrics_line(self, prefix: str) -> str:
        shown = [key for key in SHOWN if key in self.metrics and key.startswith(prefix) and (prefix or "eval/" not in key)]
        return ", ".join(f"{CATALOGUE[key].title.lower()} {figure(key, self.metrics[key])}" for key in shown)

    def render(self) -> RenderableType:
        head = Table.grid(padding=(0, 2))
        left = "" if self.seconds_left is None or self.state == "succeeded" else f"{self.seconds_left:.0f} s left"
        head.add_row(
            Text(self.title, style="bold"),
            Text(self.state or "running"),
            Text(self.stage),
            ProgressBar(total=max(self.total, 1), completed=self.done, width=30),
            Text(f"{self.done}/{self.total}"),
            Text(left, style="dim"),
        )
        return Group(head, self.metrics_table(), *self.notes)

    def metrics_table(self) -> Table:
        made = Table.grid(padding=(0, 3))
        cells = [Text(f"{CATALOGUE[key].title}  {figure(key, self.metrics[key])}") for key in SHOWN if key in self.metrics]
        for start in range(0, len(cells), 3):
            made.add_row(*cells[start : start + 3])
        return made


def figure(key: str, value: float) -> str:
    """Return a metric as people read it: `14 230 tokens/s`, `62.5 %`, `0.3172`; the unit only where the title doesn't say it."""
    unit = CATALOGUE[key].unit
    if unit == "share":
        return percent(value, 1)
    digits = f"{value:,.0f}".replace(",", " ") if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"
    return f"{digits} {unit}" if unit in {"tokens/s", "nats", "tokens"} else digits


def final_line(metrics: Metrics) -> str:
    """Return the final figures with their intervals: `win rate 62.5 % (95 % interval 54.0 % to 70.2 %)`."""
    told = [(f"{one.label} {one.value}", one.interval) for one in write_final(metrics)]
    return ", ".join(f"{text} (95 % interval {interval})" if interval else text for text, interval in told)


def as_sentence(reason: str) -> str:
    """Return a reason with a capital letter and a full stop."""
    return reason[:1].upper() + reason[1:] + ("" if reason.endswith((".", "!", "?", "…")) or not reason else ".")


def note_of(kind: str, payload: dict[str, Any]) -> tuple[str, str] | None:
    """Return an event as a line and its style; None for what the terminal doesn't show."""
    if kind == "finding":
        style = {"info": "", "warning": "yellow", "error": "red"}[payload["severity"]]
        return f"{payload['title']}: {payload['evidence']} {payload['remedy']}", style
    if kind == "log":
        return payload["text"], "" if payload["level"] == "info" else "yellow"
    if kind == "recital":
        same = sum(one["answer"] == one["learned"] for one in payload["prompts"])
        return f"Of {len(payload['prompts'])} prompts that it was trained on the policy answers {same} word for word.", ""
    if kind == "kept":
        return payload["text"], ""
    if kind == "resume":
        return f"Attempt {payload['attempt']} goes on after step {payload['step']}.", ""
    return None
