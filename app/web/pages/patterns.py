"""Every element of the pages beside each other, in light and in dark, made by the templates that the pages use."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response

from app.domain.dataset import DatasetState
from app.domain.events import ChatMessage, Event, FindingRaised, LogWritten, SampleDrawn
from app.domain.metrics import WEIGHT_EDGES
from app.domain.preview.readings import Part, TextToken, TokenRun, TokenView
from app.domain.run import RunState
from app.web.pages.run.charts import Chart
from app.web.pages.run.layout import Tile
from app.web.pages.run.stream import Shown
from app.web.rendering.choices import Choice
from app.web.rendering.environment import Context, go_to, render
from app.web.rendering.fields import Field
from app.web.rendering.histogram import Histogram, weights_of

router = APIRouter()

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
TREND = [(step, 2.4 / step**0.5) for step in range(1, 40)]
TEXTS = (("Prompt", "prompt", "Why is the sky blue?"), ("Answer", "answer", "Because air scatters blue light more."))
CURT, KIND = "Air scatters it.", "Because air scatters blue light more than red."


@dataclass(frozen=True)
class Specimens:
    """What one theme shows; ids within the page hold the theme's name."""

    theme: str
    number: int

    @property
    def fields(self) -> list[Field]:
        """A text, a number with a fault, a choice and a switch."""
        return [
            Field(f"{self.theme}.name", "Name", "One line.", "text", None, optional=True, value="Kind help desk"),
            Field(f"{self.theme}.lambda", "Temperature λ", "", "number", 0.5, False, value="-1", errors=("λ is more than 0.",)),
            Field(f"{self.theme}.source", "Where rewards come from", "", "select", "rating", False, ("rating", "model"), "model"),
            Field(f"{self.theme}.mean_one", "Rescale weights to mean 1", "", "switch", True, False, ("yes", "no"), "yes"),
        ]

    @property
    def chosen(self) -> Field:
        return Field(f"{self.theme}.dataset", "Data set", "", "select", None, False, value="data_1")

    def shown(self, kind: str, event: Event) -> Shown:
        return Shown("run_example", self.number, AT, kind, event)

    @property
    def findings(self) -> list[Shown]:
        """One of each severity."""
        told = {"evidence": "The effective sample size is 0.11 of the batch.", "remedy": "Raise weights.lambda.", "step": 4}
        return [
            Shown("run_example", 10 * self.number + number, AT, "finding", FindingRaised(
                name="weight_collapse", severity=severity, title=f"One response takes the batch ({severity})", **told,
            ))
            for number, severity in enumerate(("info", "warning", "error"))
        ]  # fmt: skip

    @property
    def logs(self) -> list[Shown]:
        levels = (("info", "Tokenized 640 examples."), ("warning", "12 prompts were cut."), ("error", "The disk is full."))
        return [
            Shown("run_example", 10 * self.number + number, AT, "log", LogWritten(level=level, text=text))
            for number, (level, text) in enumerate(levels)
        ]

    @property
    def sample(self) -> Shown:
        prompt = [ChatMessage(role="user", content=TEXTS[0][2])]
        drawn = {"reference": CURT, "policy": KIND, "reference_reward": 0.3, "policy_reward": 1.2}
        return self.shown("sample", SampleDrawn(step=100, index=self.number, example_id=7, prompt=prompt, **drawn))


def token_view() -> TokenView:
    parts: tuple[tuple[Part, str], ...] = (("prompt", TEXTS[0][2]), ("answer", CURT))
    runs = [
        TokenRun(part=part, num_tokens=len(words), head=tuple(TextToken(id=n, text=f" {word}") for n, word in enumerate(words)))
        for part, words in ((part, text.split()) for part, text in parts)
    ]
    return TokenView(runs=[*runs, TokenRun(part="end", num_tokens=1, head=(TextToken(id=2, text="<|im_end|>", control=True),))])


@dataclass(frozen=True, kw_only=True)
class PatternsPage(Context):
    template = "patterns/patterns.html"

    themes: list[Specimens]
    states: list[str]
    choices: list[Choice]
    tiles: list[tuple[Tile, float | None]]
    chart: Chart
    histograms: list[Histogram]
    losses: list[tuple[int, float]]
    view: TokenView
    at: datetime


@router.get("/patterns")
def show_patterns(request: Request, theme: Annotated[str, Query(max_length=10)] = "") -> HTMLResponse:
    """Both themes, or the one that is asked for."""
    counts = [0, 0, 0, 0, 1, 4, 9, 22, 40, 31, 17, 9, 6, 3, 2, 1, 1, 0, 0, 0, 0, 0]
    context = PatternsPage(
        themes=[Specimens(name, number) for number, name in enumerate(("light", "dark"), 1) if theme in ("", name)],
        states=[*(str(state) for state in RunState), *(str(state) for state in DatasetState if state.value != "failed")],
        choices=[Choice("data_1", "Help desk (640)"), Choice("data_2", "Tickets (1 200, rated)")],
        tiles=[
            (Tile("eval/reward_gain", "Reward gain", "on validation prompts", "signed"), 1.63),
            (Tile("eval/win_rate", "Win rate", "on validation prompts", "percent"), 0.879),
            (Tile("eval/kl", "KL", "nats, on validation"), None),
        ],
        chart=Chart("example", "Loss", "Weighted negative log-likelihood of the batch."),
        histograms=[replace(drawn, title="Weights of a batch") for drawn in weights_of([counts[: len(WEIGHT_EDGES) + 1]])],
        losses=TREND,
        view=token_view(),
        at=AT,
    )
    return render(request, context)


@router.post("/patterns")
def press(request: Request) -> Response:
    """Where the example's buttons lead: back to the page, nothing is changed."""
    return go_to(request, "/patterns")
