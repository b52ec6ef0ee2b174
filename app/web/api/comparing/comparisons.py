"""REST: comparisons. Two or more models' answers to the same prompts, by every judge and by people's votes."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, ConfigDict, Field

from app.domain.answering.judge import JudgesRequest
from app.domain.comparing.figures import Figures
from app.domain.comparing.order import Sort, order_prompts, page_of
from app.domain.comparing.votes import VotesFigures
from app.domain.errors import Conflict, InvalidInput, Unavailable
from app.services.comparing import comparisons as service
from app.services.comparing.asking import judge
from app.services.comparing.computing import COMPUTING
from app.services.comparing.overview import Overview, State, list_pair_gains, look
from app.store.comparing import comparisons as store
from app.store.comparing.comparisons import ComparisonRow
from app.store.tables import Comparison
from app.web.api.answering.answers import JUDGES
from app.web.api.paging import After, Limit, Page, to_page
from app.web.api.sharing import ChangeBody, Mine, OwnedView, Private, change, owned
from app.web.dependencies import CurrentFiles, CurrentUser, ReadSession, WriteSession

router = APIRouter(prefix="/comparisons", tags=["comparisons"])

ID = "comparison_01kb4y7v3m2q8d5n6c9t0r1x2z"


class ComparisonView(OwnedView):
    """A comparison as lists show it."""

    id: str = Field(examples=[ID])
    name: str
    prompt_set_id: str
    num_prompts: int
    answers: list[str] = Field(description="Ids of the answers, in the order of all lists of models.")
    models: list[str]
    ready: bool = Field(description="All of the answers are there.")
    created_at: datetime


class ContenderView(BaseModel):
    """One model's answers in a comparison."""

    answers: str
    name: str = Field(description="What the model is called in the sentence.")
    model_sha256: str | None = Field(description="Of its weights: equal for one model asked in two ways, which is never ranked.")
    sampling: dict[str, Any]
    ready: bool
    run_id: str | None = Field(description="The run that makes the answers.")
    progress: float | None = Field(description="Of that run's stage, while it goes on.")


class ComparisonDetail(OwnedView):
    """A comparison with everything that is computed of it; null before its state is ready."""

    id: str
    name: str
    state: State = Field(
        description="making: answers are made, or nobody who ranks has judged them yet; computing: many figures are computed, "
        "for some seconds; ready; failed: nobody makes some of the answers any more."
    )
    prompt_set_id: str
    num_prompts: int
    created_at: datetime
    verdict: str = Field(description="Who beats whom, or that they are not told apart and how many prompts it would take.")
    judging: list[str] = Field(description="Judges who have not judged all answers yet and are at it, or wait for a worker.")
    unjudged: dict[str, list[str]] = Field(
        description="By the name of a judge who has judged only some of the answers and is not at the others: these models."
    )
    models: list[ContenderView]
    figures: Figures | None = Field(
        description="By judge: means, pairs (gain, win rate, length-controlled win rate, each as [value, low, high, standard "
        "error] with a 95 % interval), Bradley-Terry strengths of three models or more; and who agrees with whom."
    )
    votes: VotesFigures | None = Field(description="People's votes as one more judge, their agreement, and how many are wanted.")


class ShownAnswer(BaseModel):
    text: str
    earlier: list[str] = Field([], description="Of a question of several turns: the answers before.")
    finished: bool
    scores: dict[str, float | None] = Field(description="By the judge's key.")


class ComparedPrompt(BaseModel):
    """One prompt with all answers."""

    index: int
    messages: list[dict[str, Any]]
    reference: str | None
    gain: float | None = Field(description="What the pair's first model got more than its second, by the judge.")
    answers: list[list[ShownAnswer]] = Field(description="By model and draw.")


class NewComparison(BaseModel):
    model_config = ConfigDict(extra="forbid")

    answers: list[Annotated[str, Field(max_length=40)]] = Field(
        min_length=1, max_length=40, description="Ids of answers to the same prompt set, by two models or more."
    )
    name: str = Field("", max_length=120, description="Empty: made from models and prompt set.")


NEW = {
    "two": {
        "summary": "Two models",
        "value": {"answers": ["answers_01kb4y7v3m2q8d5n6c9t0r1x2z", "answers_01kb4y7v3m2q8d5n6c9t0r1x30"]},
    }
}
NOT_READY = "Not all answers of this comparison are there yet: wait until its state is ready."
Pair = Annotated[str, Query(max_length=9, description="Two places in the list of models.", examples=["0,1"])]


@router.post("", status_code=201, operation_id="create_comparison", summary="Compare answers")
def create_comparison(
    body: Annotated[NewComparison, Body(openapi_examples=NEW)], session: WriteSession, files: CurrentFiles, user: CurrentUser,
    private: Private = False,
) -> ComparisonDetail:  # fmt: skip
    """Answers may still be in the making: the figures come when they are there.

    422 for answers to different prompt sets, for fewer than two, and for one model asked twice in the same way.
    """
    return show(look(session, files, service.create(session, user.id, body.answers, body.name, private=private)))


@router.get("", operation_id="list_comparisons", summary="List comparisons")
def list_comparisons(
    session: ReadSession, user: CurrentUser, mine: Mine = False, after: After = None, limit: Limit = 50
) -> Page[ComparisonView]:
    """Newest first, all that you may see."""
    rows = store.list_comparisons(session, user.id, mine=mine, after=after, limit=limit + 1)
    return to_page(rows, limit, show_row, lambda row: row.comparison.id)


@router.get("/{comparison_id}", operation_id="get_comparison", summary="Get a comparison")
def get_comparison(session: ReadSession, files: CurrentFiles, user: CurrentUser, comparison_id: str) -> ComparisonDetail:
    """With its sentence, figures and votes; they are computed once for each state of answers and judgements."""
    return show(look(session, files, store.get_comparison(session, user.id, comparison_id)))


@router.get(
    "/{comparison_id}/prompts", operation_id="list_compared_prompts", summary="List a comparison's prompts with the answers"
)
def list_prompts(
    session: ReadSession, files: CurrentFiles, user: CurrentUser, comparison_id: str, sort: Sort = Sort.PROMPTS,
    judge: Annotated[str, Query(max_length=64, description="A judge's key, or votes; empty: the leading one.")] = "",
    pair: Pair = "0,1", search: Annotated[str, Query(max_length=200, description="Words in prompt or answers.")] = "",
    after: Annotated[int | None, Query(ge=0, le=10**6, description="`next` of the page before.")] = None, limit: Limit = 50,
) -> Page[ComparedPrompt]:  # fmt: skip
    """By losses or gains of the pair's first model, where judges disagree, or in the prompt set's order."""
    found = look(session, files, store.get_comparison(session, user.id, comparison_id))
    if found.kept is None:
        raise Unavailable(COMPUTING) if found.state == "computing" else Conflict(NOT_READY)
    places = read_pair(pair, len(found.names))
    gains = list_pair_gains(session, found.comparison, found.kept, places)
    key = judge or (found.leading.key if found.leading else "")
    order = order_prompts(found.prompt_set.num_prompts, gains, key, sort)
    wanted = found.kept.search(search) if search.strip() else None
    shown, following = page_of(order, wanted, after, limit)
    items = [
        ComparedPrompt(
            index=index, gain=gains.get(key, {}).get(index), **{name: line[name] for name in ("messages", "reference", "answers")}
        )
        for index, line in zip(shown, found.kept.read_texts(shown), strict=True)
    ]
    return Page(items=items, next=None if following is None else str(following))


@router.post(
    "/{comparison_id}/judges", status_code=202, operation_id="judge_comparison", summary="Ask more judges about all answers"
)
def judge_comparison(
    body: Annotated[JudgesRequest, Body(openapi_examples=JUDGES)], session: WriteSession, files: CurrentFiles, user: CurrentUser,
    comparison_id: str,
) -> ComparisonDetail:  # fmt: skip
    """Of all answers that you may change, one run each, none made anew; 403 where all of them are others'."""
    comparison = judge(session, user.id, comparison_id, body.judges)
    session.flush()
    return show(look(session, files, comparison))


@router.patch("/{comparison_id}", operation_id="change_comparison", summary="Rename a comparison, make it private, or share it")
def change_comparison(
    session: WriteSession, files: CurrentFiles, user: CurrentUser, comparison_id: str, body: ChangeBody
) -> ComparisonDetail:
    """Its answers keep their names, and are seen as before."""
    comparison = change(session, user.id, Comparison, comparison_id, body)
    session.flush()
    return show(look(session, files, comparison))


@router.delete("/{comparison_id}", status_code=204, operation_id="delete_comparison", summary="Delete a comparison")
def delete_comparison(session: WriteSession, files: CurrentFiles, user: CurrentUser, comparison_id: str) -> None:
    """Removes it with its votes and vote links; the answers stay."""
    service.delete(session, files, user.id, comparison_id)


def read_pair(text: str, num_models: int) -> tuple[int, int]:
    """Return the two places that were named. Raises InvalidInput."""
    parts = text.split(",")
    if len(parts) == 2 and all(part.strip().isdecimal() for part in parts):
        first, second = map(int, parts)
        if first != second and max(first, second) < num_models:
            return first, second
    raise InvalidInput.at("pair", f"Name two of the {num_models} models by their places, such as 0,1.")


def show_row(row: ComparisonRow) -> ComparisonView:
    comparison = row.comparison
    return ComparisonView(
        **owned(comparison),
        id=comparison.id, name=comparison.name, prompt_set_id=comparison.prompt_set_id, num_prompts=row.num_prompts,
        answers=comparison.answers_ids, models=row.models, ready=row.is_ready, created_at=comparison.created_at,
    )  # fmt: skip


def show(found: Overview) -> ComparisonDetail:
    models = [
        ContenderView(
            answers=one.answers.id, name=name, model_sha256=(one.answers.facts or {}).get("model_sha256"),
            sampling=one.answers.sampling, ready=one.is_ready, run_id=one.answers.run_id,
            progress=None if one.is_ready or one.run is None else one.run.progress,
        )
        for one, name in zip(found.contenders, found.names, strict=True)
    ]  # fmt: skip
    return ComparisonDetail(
        **owned(found.comparison),
        id=found.comparison.id, name=found.comparison.name, state=found.state, prompt_set_id=found.prompt_set.id,
        num_prompts=found.prompt_set.num_prompts, created_at=found.comparison.created_at, verdict=found.verdict, models=models,
        judging=found.judging, unjudged=found.unjudged,
        figures=found.kept.figures if found.kept else None, votes=found.votes,
    )  # fmt: skip
