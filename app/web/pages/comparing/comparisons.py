"""The list of comparisons and the page of one: who is better and how sure that is, then prompt by prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import select

from app.domain.comparing.figures import JudgeFigures
from app.domain.comparing.order import Sort, order_prompts, page_of
from app.domain.errors import Conflict, Unavailable
from app.services.comparing import comparisons as service
from app.services.comparing.computing import COMPUTING
from app.services.comparing.overview import Overview, list_pair_gains, look
from app.store.answering.endpoints import list_endpoints
from app.store.comparing import comparisons as store
from app.store.comparing.comparisons import ComparisonRow, Contender
from app.store.comparing.votes import VoterRow, list_links, list_voters
from app.store.metrics import list_metrics
from app.store.models import list_models
from app.store.sharing import may_change, visible_to
from app.store.tables import Endpoint, Model, Run, VoteLink
from app.web.dependencies import CurrentFiles, CurrentUser, ReadSession, WriteSession
from app.web.rendering.compared import Curves, Dots, JudgeLines, MarkedPrompt, differ, draw_curves, draw_dots, mark, tabulate
from app.web.rendering.environment import Context, go_to, render

router = APIRouter()

PAGE_SIZE = 30
PROMPTS_SHOWN = 10
MOST_JUDGES = 100
CURVE_POINTS = 200
PRINTED_PROMPTS = 8
SORTS = {
    Sort.LOSSES: "{first}’s losses first", Sort.GAINS: "{first}’s gains first", Sort.DISAGREEMENT: "where judges disagree",
    Sort.PROMPTS: "as in the prompt set",
}  # fmt: skip
CURVES = {
    "eval/reward_gain": "Reward gain", "eval/kl": "KL from the reference", "loss": "Loss",
    "weight/ess_share": "Effective sample size, share of the batch",
}  # fmt: skip

After = Annotated[str, Query(max_length=60)]


@dataclass(frozen=True)
class Choices:
    """What of a comparison is looked at: which two models, by which judge, which prompts in which order."""

    first: int
    second: int
    judge: str
    sort: Sort
    search: str
    after: int | None

    def address(self, comparison_id: str, **changes: object) -> str:
        """Return where the same page is with these changes; the list of prompts then begins anew."""
        chosen = {"first": self.first, "second": self.second, "judge": self.judge, "sort": self.sort.value, "search": self.search}
        query = {name: value for name, value in {**chosen, **changes}.items() if value != ""}
        return f"/comparisons/{comparison_id}?{urlencode(query)}#prompts"


@dataclass(frozen=True, kw_only=True)
class ComparisonsPage(Context):
    template = "comparisons/list.html"

    rows: list[ComparisonRow]
    mine: bool
    after: str
    next_after: str
    moves: bool


@dataclass(frozen=True, kw_only=True)
class PrintPage(Context):
    template = "comparisons/print.html"

    found: Overview
    chosen: Choices
    judge: JudgeFigures | None
    judges: list[JudgeLines]
    prompts: list[MarkedPrompt]


@dataclass(frozen=True, kw_only=True)
class ComparisonPage(PrintPage):
    template = "comparisons/comparison.html"

    dots: Dots | None
    curves: list[Curves]
    differences: list[tuple[str, list[str]]]
    trained: list[tuple[str, str]]  # runs whose models are compared: id and name
    num_prompts: int
    next_after: int | None
    sorts: dict[str, str]
    voters: list[VoterRow]
    reward_models: list[Model]
    endpoints: list[Endpoint]
    others: list[str]  # whose answers only they can have judged
    links: list[VoteLink]


@router.get("/comparisons")
def list_comparisons(
    request: Request, session: ReadSession, user: CurrentUser, mine: bool = False, after: After = ""
) -> HTMLResponse:
    found = store.list_comparisons(session, user.id, mine=mine, after=after or None, limit=PAGE_SIZE + 1)
    rows = found[:PAGE_SIZE]
    following = rows[-1].comparison.id if len(found) > PAGE_SIZE else ""
    moves = any(not row.is_ready for row in rows)
    return render(request, ComparisonsPage(rows=rows, mine=mine, after=after, next_after=following, moves=moves))


def choose(
    first: Annotated[int, Query(ge=0, le=20)] = 0, second: Annotated[int, Query(ge=0, le=20)] = 1,
    judge: Annotated[str, Query(max_length=64)] = "", sort: Sort = Sort.LOSSES,
    search: Annotated[str, Query(max_length=200)] = "", after: Annotated[int | None, Query(ge=0, le=10**6)] = None,
) -> Choices:  # fmt: skip
    """Return what the address chooses."""
    return Choices(first, second, judge, sort, search.strip(), after)


@router.get("/comparisons/{comparison_id}")
def show_comparison(
    request: Request, session: ReadSession, files: CurrentFiles, user: CurrentUser, comparison_id: str,
    chosen: Annotated[Choices, Depends(choose)],
) -> HTMLResponse:  # fmt: skip
    found = look(session, files, store.get_comparison(session, user.id, comparison_id))
    chosen = settle(chosen, found)
    gains = list_pair_gains(session, found.comparison, found.kept, (chosen.first, chosen.second)) if found.kept else {}
    order = order_prompts(found.prompt_set.num_prompts, gains, chosen.judge, chosen.sort) if found.kept else []
    wanted = found.kept.search(chosen.search) if found.kept and chosen.search else None
    shown, following = page_of(order, wanted, chosen.after, PROMPTS_SHOWN)
    trained = list_trained(session, user.id, found.contenders)
    mine, pair = gains.get(chosen.judge, {}), (chosen.first, chosen.second)
    lines = found.kept.read_texts(shown) if found.kept else []
    context = ComparisonPage(
        found=found,
        chosen=chosen,
        judge=next((judge for judge in found.judges if judge.key == chosen.judge), None),
        judges=tabulate(found.judges, found.names, chosen.second),
        dots=draw_dots(list_dots(found, mine, pair)),
        curves=draw_all(session, trained, found),
        differences=differ([run.recipe for _, run in trained]) if len(trained) > 1 else [],
        trained=[(run.id, found.names[model]) for model, run in trained],
        prompts=[mark(line, index, found.names, pair, mine.get(index)) for index, line in zip(shown, lines, strict=True)],
        num_prompts=len(order) if wanted is None else len(wanted.intersection(order)),
        next_after=following,
        voters=list_voters(session, comparison_id),
        reward_models=list_models(session, user.id, kind="reward", limit=MOST_JUDGES),
        endpoints=list_endpoints(session, limit=MOST_JUDGES),
        others=[
            name for name, one in zip(found.names, found.contenders, strict=True) if not may_change(session, user.id, one.answers)
        ],
        links=list_links(session, comparison_id),
        sorts={sort.value: words.format(first=found.names[chosen.first]) for sort, words in SORTS.items()},
    )
    return render(request, context)


def settle(chosen: Choices, found: Overview) -> Choices:
    """Return choices that this comparison has: two of its models, and one of its judges."""
    num_models = len(found.names)
    is_pair = chosen.first != chosen.second and max(chosen.first, chosen.second) < num_models
    first, second = (chosen.first, chosen.second) if is_pair else (0, 1)
    known = {judge.key for judge in found.judges if judge.ranks}
    leading = found.leading.key if found.leading else ""
    return replace(chosen, first=first, second=second, judge=chosen.judge if chosen.judge in known else leading)


def list_trained(session: ReadSession, user_id: str, contenders: Sequence[Contender]) -> list[tuple[int, Run]]:
    """Return the runs that have trained the models and that the user may see, each with its model's place."""
    wanted = {one.answers.model_run_id: place for place, one in enumerate(contenders) if one.answers.model_run_id}
    runs = session.scalars(select(Run).where(Run.id.in_(list(wanted)), visible_to(user_id, Run)))
    return sorted(((wanted[run.id], run) for run in runs), key=lambda one: one[0])


def list_dots(found: Overview, gains: Mapping[int, float], pair: tuple[int, int]) -> list[tuple[float, float]]:
    """Return for each prompt how much longer the first's answer is, and what it got more."""
    lengths = found.kept.rows.lengths if found.kept else []
    return [
        (mine - other, gain)
        for prompt, gain in gains.items()
        if (mine := lengths[prompt][pair[0]]) is not None and (other := lengths[prompt][pair[1]]) is not None
    ]


def draw_all(session: ReadSession, trained: Sequence[tuple[int, Run]], found: Overview) -> list[Curves]:
    """Return the curves of all runs over each other, where there are two or more."""
    if len(trained) < 2:
        return []
    series = [(found.names[model], list_metrics(session, run.id, list(CURVES), CURVE_POINTS)) for model, run in trained]
    drawn = (draw_curves(key, title, [(name, mine[key]) for name, mine in series]) for key, title in CURVES.items())
    return [curves for curves in drawn if curves]


@router.post("/comparisons/{comparison_id}/delete")
def delete_comparison(
    request: Request, session: WriteSession, files: CurrentFiles, user: CurrentUser, comparison_id: str
) -> Response:
    service.delete(session, files, user.id, comparison_id)
    return go_to(request, "/comparisons")


@router.get("/comparisons/{comparison_id}/print")
def print_comparison(
    request: Request, session: ReadSession, files: CurrentFiles, user: CurrentUser, comparison_id: str
) -> HTMLResponse:
    found = look(session, files, store.get_comparison(session, user.id, comparison_id))
    if found.state == "computing":
        raise Unavailable(COMPUTING)
    if found.kept is None:
        raise Conflict("There is nothing to print yet: the answers of this comparison are still being made.")
    chosen = settle(Choices(0, 1, "", Sort.PROMPTS, "", None), found)
    pair = (chosen.first, chosen.second)
    mine = list_pair_gains(session, found.comparison, found.kept, pair).get(chosen.judge, {})
    deciding = sorted(mine, key=lambda prompt: -abs(mine[prompt]))[:PRINTED_PROMPTS]
    lines = found.kept.read_texts(deciding)
    context = PrintPage(
        found=found,
        chosen=chosen,
        judge=next((judge for judge in found.judges if judge.key == chosen.judge), None),
        judges=tabulate(found.judges, found.names, chosen.second),
        prompts=[mark(line, index, found.names, pair, mine[index]) for index, line in zip(deciding, lines, strict=True)],
    )
    return render(request, context)
