"""The page of one model's answers: how far they are, what judges say, the texts by their scores, and the data they become."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.domain.answering.answers import AnswersFacts, RunModel, SamplingSettings, read_choice
from app.domain.answering.farm import SHAPE_TITLES, FarmFigures, FarmRequest, FarmShape, list_left_out
from app.domain.answering.judge import Judge, JudgesRequest
from app.domain.errors import InvalidInput
from app.domain.problems import parse
from app.services import runs
from app.services.answering import answers as service
from app.services.answering import farm, makers
from app.services.sharing import take
from app.store import models
from app.store.answering import answers as store
from app.store.answering.answers import AnswersRow
from app.store.answering.endpoints import list_endpoints
from app.store.answering.lines import read_answers, read_prompts, read_scores
from app.store.files.files import Files
from app.store.tables import Answers, Endpoint, Judgement, Model, PromptSet
from app.web.answering.lists import grow
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentUser, ReadSession, WriteSession, read_apart
from app.web.pages.answering.prompt_sets import judges_of
from app.web.pages.run.status import progress_text
from app.web.rendering.answered import SORT_TITLES, AnsweredPrompt, AnswersSort, gather, order_prompts, search
from app.web.rendering.environment import Context, go_to, render
from app.web.rendering.form_words import tell_error

router = APIRouter()

PAGE_SIZE, PROMPTS_SHOWN, MOST_CHOICES = 30, 10, 100
After = Annotated[str, Query(max_length=60)]


@dataclass(frozen=True, kw_only=True)
class AnswersListPage(Context):
    template = "answers/list.html"

    rows: list[tuple[AnswersRow, str]]  # with their state
    mine: bool
    next_after: str


@dataclass(frozen=True)
class Look:
    """Which of the answers are looked at, and how."""

    judge: str
    sort: AnswersSort
    search: str
    start: int

    def address(self, answers_id: str, start: int) -> str:
        query = {"judge": self.judge, "sort": self.sort.value, "search": self.search, "start": start}
        return f"/answers/{answers_id}?{urlencode({key: value for key, value in query.items() if value})}#texts"


@dataclass(frozen=True, kw_only=True)
class AnswersPage(Context):
    template = "answers/answers.html"

    row: AnswersRow
    state: str
    progress: str
    prompt_set: PromptSet
    facts: AnswersFacts | None
    sampling: SamplingSettings
    trained_by: str  # the run whose model answers
    step: int | None
    has_references: bool
    reward_models: list[Model]
    endpoints: list[Endpoint]
    opponents: list[Answers]  # to the same prompts, with which a language model can compare
    ready: list[Judgement]
    shapes: dict[str, str]
    look: Look
    sorts: dict[str, str]
    prompts: list[AnsweredPrompt]
    num_prompts: int
    following: int | None
    remark: str


@dataclass(frozen=True, kw_only=True)
class FarmPart(Context):
    template = "answers/_farm_figures.html"

    figures: FarmFigures | None
    left_out: list[str]
    judge: str
    sentence: str


@router.get("/answers")
def list_answers(
    request: Request, session: ReadSession, user: CurrentUser, mine: bool = False, after: After = ""
) -> HTMLResponse:
    found = store.list_answers(session, user.id, mine=mine, after=after or None, limit=PAGE_SIZE + 1)
    rows = store.describe_answers(session, found[:PAGE_SIZE])
    following = found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else ""
    shown = [(row, service.standing_of(row.answers, row.run)) for row in rows]
    return render(request, AnswersListPage(rows=shown, mine=mine, next_after=following))


@router.get("/answers/{answers_id}")
def show_answers(
    request: Request, session: ReadSession, files: CurrentFiles, user: CurrentUser, answers_id: str,
    judge: Annotated[str, Query(max_length=64)] = "", sort: AnswersSort = AnswersSort.PROMPTS,
    search: Annotated[str, Query(max_length=200)] = "", start: Annotated[int, Query(ge=0, le=10**6)] = 0,
    remark: Annotated[str, Query(max_length=300)] = "",
) -> HTMLResponse:  # fmt: skip
    answers = store.get_answers(session, user.id, answers_id)
    (row,) = store.describe_answers(session, [answers])
    prompt_set, choice = session.get_one(PromptSet, answers.prompt_set_id), read_choice(answers.model)
    ready = [judgement for judgement in row.judgements if judgement.facts]
    known = {judgement.key for judgement in ready}
    usual = max(ready, key=lambda one: one.kind != "length").key if ready else ""
    look = Look(judge if judge in known else usual, sort, search.strip(), start)
    prompts, num_prompts = find_prompts(files, answers, prompt_set, ready, look)
    context = AnswersPage(
        row=row,
        state=service.standing_of(answers, row.run),
        progress=progress_text(row.run) if row.run else "",
        prompt_set=prompt_set,
        facts=AnswersFacts.model_validate(answers.facts) if answers.facts else None,
        sampling=SamplingSettings.model_validate(answers.sampling),
        trained_by=choice.run if isinstance(choice, RunModel) else "",
        step=choice.step if isinstance(choice, RunModel) else None,
        has_references=bool(prompt_set.facts["num_references"]),
        reward_models=models.list_models(session, user.id, kind="reward", limit=MOST_CHOICES),
        endpoints=list_endpoints(session, limit=MOST_CHOICES),
        opponents=store.list_opponents(session, user.id, answers, limit=MOST_CHOICES),
        ready=ready,
        shapes={shape.value: title for shape, title in SHAPE_TITLES.items()},
        look=look,
        sorts={one.value: title for one, title in SORT_TITLES.items()},
        prompts=prompts,
        num_prompts=num_prompts,
        following=start + PROMPTS_SHOWN if num_prompts > start + PROMPTS_SHOWN else None,
        remark=remark,
    )
    return render(request, context)


def find_prompts(
    files: Files, answers: Answers, prompt_set: PromptSet, ready: list[Judgement], look: Look
) -> tuple[list[AnsweredPrompt], int]:
    """Return the prompts of the page with their answers, and how many there are in all."""
    rows, prompts = read_answers(files, answers), read_prompts(files, prompt_set)
    scores = {judgement.key: read_scores(files, answers, judgement.key) for judgement in ready}
    order = order_prompts(rows, scores.get(look.judge, {}), look.sort)
    if look.search:
        wanted = search(rows, prompts, look.search)
        order = [index for index in order if index in wanted]
    return gather(order[look.start : look.start + PROMPTS_SHOWN], prompts, rows, scores, look.judge), len(order)


async def read_judges(request: Request) -> list[Judge]:
    """Return the judges that a form asks for. Raises InvalidInput for none, and for one that can't be asked so."""
    async with request.form(max_fields=200, max_files=0) as form:
        asked = judges_of([str(value) for value in form.getlist("judge")], str(form.get("pattern", "")).strip()[:500])
        if (llm := str(form.get("llm", ""))[:80]) and (against := str(form.get("against", ""))[:80]):
            asked.append({"kind": "llm", "endpoint": llm, "against": against})
    if not asked:
        raise InvalidInput.at("judges", "Choose at least one judge.")
    return parse(JudgesRequest, {"judges": asked}, InvalidInput).judges


@router.post("/answers/{answers_id}/judges")
async def add_judges(request: Request, database: CurrentDatabase, user: CurrentUser, answers_id: str) -> Response:
    """Ask the judges that are ticked; the page then shows how far they are."""
    judges = await read_judges(request)

    def ask() -> Response:
        with database.writing() as session:
            service.judge(session, user.id, answers_id, judges)
        return go_to(request, f"/answers/{answers_id}")

    return await read_apart(request, ask)


def read_farm(judge: str, shape: str, margin: str, name: str = "") -> FarmRequest:
    """Return the request of the farm's form. Raises InvalidInput."""
    return parse(FarmRequest, {"judge": judge, "shape": shape, "margin": margin.strip() or 0, "name": name.strip()}, InvalidInput)


@router.get("/answers/{answers_id}/farm")
def show_farm(
    request: Request, session: ReadSession, files: CurrentFiles, user: CurrentUser, answers_id: str,
    judge: Annotated[str, Query(max_length=64)] = "", shape: Annotated[str, Query(max_length=20)] = FarmShape.BEST_WORST.value,
    margin: Annotated[str, Query(max_length=20)] = "0",
) -> HTMLResponse:  # fmt: skip
    """What a data set would hold, beside the form while it is filled."""
    try:
        figures = farm.preview(session, files, user.id, answers_id, read_farm(judge, shape, margin))
    except InvalidInput as error:
        return render(request, FarmPart(figures=None, left_out=[], judge="", sentence=tell_error(error)))
    judge = name_judge(session, answers_id, judge)
    return render(request, FarmPart(figures=figures, left_out=list_left_out(figures), judge=judge, sentence=""))


def name_judge(session: Session, answers_id: str, key: str) -> str:
    return next((one.name for one in store.list_judgements(session, [answers_id]) if one.key == key), key)


@router.post("/answers/{answers_id}/dataset")
async def make_dataset(
    request: Request, user: CurrentUser, answers_id: str,
    judge: Annotated[str, Form(max_length=64)] = "", shape: Annotated[str, Form(max_length=20)] = FarmShape.BEST_WORST.value,
    margin: Annotated[str, Form(max_length=20)] = "0",
) -> Response:  # fmt: skip
    dataset_id = await grow(request, user.id, answers_id, read_farm(judge, shape, margin))
    return go_to(request, f"/datasets/{dataset_id}")


@router.post("/answers/{answers_id}/again")
def make_again(session: WriteSession, user: CurrentUser, answers_id: str) -> Response:
    """Make what is missing, after a failure or a cancelling."""
    makers.make(session, take(session, user.id, Answers, answers_id, "made again"))
    return RedirectResponse(f"/answers/{answers_id}", status_code=303)


@router.post("/answers/{answers_id}/cancel")
def cancel(request: Request, session: WriteSession, user: CurrentUser, answers_id: str) -> Response:
    answers = take(session, user.id, Answers, answers_id, "cancelled")
    at_work = store.find_run_at_work(answers, store.list_judgements(session, [answers_id]))
    if at_work:
        runs.request_cancel(session, user.id, at_work)
    return go_to(request, f"/answers/{answers_id}")


@router.post("/answers/{answers_id}/delete")
def delete_answers(request: Request, session: WriteSession, files: CurrentFiles, user: CurrentUser, answers_id: str) -> Response:
    service.delete(session, files, user.id, answers_id)
    return go_to(request, "/answers")
