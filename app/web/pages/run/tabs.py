"""The tabs of a run's page. All are in the page, so that the stream feeds all; the address says which one is open."""

from dataclasses import dataclass

from app.domain.recipe import Method
from app.domain.run import RunKind


@dataclass(frozen=True)
class Tab:
    id: str
    title: str


OVERVIEW = Tab("overview", "Overview")
WEIGHTS, LEARNING, SAMPLES = Tab("weights", "Weights"), Tab("learning", "Learning"), Tab("samples", "Samples")
DATA, LOG, FILES = Tab("data", "Data"), Tab("log", "Log"), Tab("files", "Files")


def tabs_of(kind: str, method: Method) -> list[Tab]:
    """Return the tabs of a run of this kind and method: a scoring trains nothing, only VAR weighs, a judge answers nothing."""
    if kind == RunKind.SCORING:
        return [OVERVIEW, DATA, LOG, FILES]
    has_samples = method is not Method.REWARD_MODEL
    return [
        OVERVIEW, *([WEIGHTS] if method is Method.VAR else []), LEARNING, *([SAMPLES] if has_samples else []), DATA, LOG, FILES,
    ]  # fmt: skip


def choose(tabs: list[Tab], id: str) -> str:
    """Return the tab that an address asks for, else the first."""
    return id if id in {tab.id for tab in tabs} else tabs[0].id
