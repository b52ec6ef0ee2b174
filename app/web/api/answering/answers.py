"""REST: answers. Asked for, judged, uploaded, read with their scores, turned into a data set, deleted."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.domain.answering.answers import AnswersFacts, AnswersRequest, ModelChoice, SamplingSettings
from app.domain.answering.farm import FarmRequest, Omission
from app.domain.answering.judge import Judge, JudgementFacts, JudgesRequest
from app.services.answering import answers as service
from app.services.answering import farm
from app.store.answering import answers as store
from app.store.answering.answers import AnswersRow
from app.store.answering.lines import read_answers, read_scores, read_tokens
from app.store.database import Database
from app.store.datasets import get_dataset
from app.store.tables import Answers, Judgement
from app.web.answering.lists import grow, take_outputs
from app.web.api.datasets import DatasetDetail, show_detail
from app.web.api.forms import describe_form
from app.web.api.paging import After, Limit, Page, to_page
from app.web.api.sharing import PRIVATE_FIELD, ChangeBody, Mine, OwnedView, Private, change, owned
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentUser, ReadSession, WriteSession, read_apart

router = APIRouter(prefix="/answers", tags=["answers"])


class JudgementView(BaseModel):
    """What one judge says of the answers, or shall say."""

    model_config = ConfigDict(from_attributes=True)

    key: str = Field(description="The same for the same judge, whatever it judges.")
    kind: str = Field(description="reward, llm, length, exact or pattern.")
    name: str
    judge: Judge
    facts: JudgementFacts | None = Field(description="Mean and standard error; null until all answers are judged.")


class AnswersView(OwnedView):
    """Answers as lists show them."""

    id: str = Field(examples=["answers_01kb4y7v3m2q8d5n6c9t0r1x2z"])
    name: str
    state: str = Field(description="queued, paused, running, ready, failed, cancelled, or missing when their run was deleted.")
    prompt_set_id: str
    model: ModelChoice
    model_name: str
    n: int = Field(description="Answers to each prompt.")
    sampling: SamplingSettings
    run_id: str | None = Field(description="The newest run that makes or judges them; null where there is none (any more).")
    facts: AnswersFacts | None = Field(description="Counts, and the hash of the model's weights; null until all are there.")
    judgements: list[JudgementView]
    remark: str = Field("", description="Of uploaded outputs: how they matched the prompts.")
    created_at: datetime


class AnswerView(BaseModel):
    """One answer with its scores by judge."""

    index: int = Field(description="The prompt's.")
    prompt_id: str
    draw: int
    text: str
    earlier: list[str] = Field([], description="Of a question of several turns: the answers before.")
    finished: bool
    num_tokens: int | None
    logprob: float | None = Field(description="Sum over its tokens under the model itself; null where that is not here.")
    scores: dict[str, float | None] = Field(description="By the judge's key; null where a judge has nothing to go by.")


class TokensView(BaseModel):
    """The tokens of one answer."""

    index: int
    draw: int
    ids: list[int]
    logprobs: list[float]


class FarmView(BaseModel):
    """What a data set of answers would hold."""

    model_config = ConfigDict(from_attributes=True)

    num_prompts: int = Field(description="Prompts that give something.")
    num_skipped: int
    left_out: dict[Omission, int] = Field(
        description="The prompts that give nothing, by reason: unscored; alone (one answer, or all alike); own_turns (of several "
        "turns, and each answer follows other earlier answers); margin."
    )
    num_rows: int
    mean_gap: float | None = Field(description="Between better and worse, in the judge's scores.")
    mean_better_length: float | None = Field(description="Characters.")
    mean_worse_length: float | None
    longer_wins: float | None = Field(description="Share of the pairs whose better answer is the longer one.")


EXAMPLES = {
    "model": {
        "summary": "Four answers of a registered policy, judged by a reward model and by length",
        "value": {
            "prompt_set": "prompts_01kb4y7v3m2q8d5n6c9t0r1x2z",
            "model": {"source": "model", "model": "model_01kb4y7v3m2q8d5n6c9t0r1x2z"},
            "n": 4,
            "sampling": {"max_new_tokens": 128, "temperature": 1.0, "seed": 0},
            "judges": [{"kind": "reward", "model": "model_01kb4y7v3m2q8d5n6c9t0r1x30"}, {"kind": "length"}],
        },
    },
    "run": {
        "summary": "What a run has trained, at its end",
        "value": {"prompt_set": "prompts_01kb4y7v3m2q8d", "model": {"source": "run", "run": "run_01kb4y7v3m2q8d5n"}},
    },
    "endpoint": {
        "summary": "A model behind an endpoint",
        "value": {"prompt_set": "prompts_01kb4y7v3m2q8d", "model": {"source": "endpoint", "endpoint": "endpoint_01kb4y7v3m2q"}},
    },
}
JUDGES = {
    "pattern": {
        "summary": "The last number of the answer is that of the reference",
        "value": {"judges": [{"kind": "pattern", "pattern": "(-?[0-9]+)[^0-9]*$"}]},
    },
    "llm": {
        "summary": "A language model compares them with another model's answers, in both orders",
        "value": {"judges": [{"kind": "llm", "endpoint": "endpoint_01kb4y7v3m2q", "against": "answers_01kb4y7v3m2q8d"}]},
    },
}
FARMS = {
    "best_worst": {
        "summary": "Best against worst, where they differ by more than 0.5",
        "value": {"judge": "1f0c5e2a9b", "shape": "best_worst", "margin": 0.5},
    }
}
OUTPUTS = describe_form(
    "JSON: instruction, output, generator.",
    {
        "prompt_set": {"type": "string", "description": "The prompt set's id."},
        "name": {"type": "string", "description": "The model's name; empty: the generator."},
        **PRIVATE_FIELD,
    },
    required=("prompt_set",),
)


def show(row: AnswersRow, remark: str = "") -> AnswersView:
    answers = row.answers
    return AnswersView.model_validate(
        {
            **owned(answers),
            **{key: getattr(answers, key) for key in ("id", "name", "prompt_set_id", "model", "model_name", "sampling", "facts")},
            "state": service.standing_of(answers, row.run),
            "n": answers.num_draws,
            "run_id": row.run.id if row.run else None,
            "judgements": [show_judgement(judgement) for judgement in row.judgements],
            "remark": remark,
            "created_at": answers.created_at,
        }
    )


def show_judgement(judgement: Judgement) -> JudgementView:
    return JudgementView.model_validate(judgement)


@router.post("", status_code=202, operation_id="request_answers", summary="Ask a model the prompts of a set")
def request_answers(
    asked: Annotated[AnswersRequest, Body(openapi_examples=EXAMPLES)],
    session: WriteSession,
    user: CurrentUser,
    response: Response,
    private: Private = False,
) -> AnswersView:
    """Queues a run in which the model answers and the judges judge, unless the answers are there: asking again gives the same
    ones, with the judges that were not asked before. All models share the random numbers of a seed, so that they are compared in
    pairs.
    """
    answers = service.request(session, user.id, asked, private=private)
    response.headers["location"] = f"/api/v1/answers/{answers.id}"
    return show(store.describe_answers(session, [answers])[0])


@router.post("/file", status_code=201, operation_id="upload_answers", summary="Upload a model's outputs", openapi_extra=OUTPUTS)
async def upload_answers(request: Request, database: CurrentDatabase, user: CurrentUser, response: Response) -> AnswersView:
    """Outputs of a model that is not here, in AlpacaEval's shape, matched to the prompts by their text. `remark` counts what did
    not match.
    """
    answers_id, remark = await take_outputs(request, user.id)
    response.headers["location"] = f"/api/v1/answers/{answers_id}"
    return await read_apart(request, find, database, user.id, answers_id, remark)


def find(database: Database, owner_id: str, answers_id: str, remark: str) -> AnswersView:
    with database.reading() as session:
        return show(store.describe_answers(session, [store.get_answers(session, owner_id, answers_id)])[0], remark)


@router.get("", operation_id="list_answers", summary="List answers")
def list_answers(
    session: ReadSession, user: CurrentUser,
    prompt_set: Annotated[str | None, Query(max_length=80, description="Only those to this prompt set.")] = None,
    model: Annotated[str | None, Query(max_length=80, description="Only those of this model, or of what began from it.")] = None,
    run: Annotated[str | None, Query(max_length=80, description="Only those of what this run has trained.")] = None,
    mine: Mine = False, after: After = None, limit: Limit = 50,
) -> Page[AnswersView]:  # fmt: skip
    """Newest first."""
    rows = store.list_answers(
        session, user.id, mine=mine, prompt_set_id=prompt_set, model_id=model, run_id=run, after=after, limit=limit + 1
    )
    return to_page(store.describe_answers(session, rows), limit, show, lambda row: row.answers.id)


@router.get("/{answers_id}", operation_id="get_answers", summary="Get answers")
def get_answers(session: ReadSession, user: CurrentUser, answers_id: str) -> AnswersView:
    """What was asked, how far it is, and what judges say; the texts are read by `answers`."""
    return show(store.describe_answers(session, [store.get_answers(session, user.id, answers_id)])[0])


@router.get("/{answers_id}/answers", operation_id="read_answers", summary="Read the answers")
def list_texts(
    session: ReadSession,
    files: CurrentFiles,
    user: CurrentUser,
    answers_id: str,
    start: Annotated[int, Query(ge=0, le=10**6, description="Index of the first prompt.")] = 0,
    limit: Annotated[int, Query(ge=1, le=200, description="Prompts of a page.")] = 20,
) -> list[AnswerView]:
    """By prompt and draw, with the scores of all judges; those that are not made yet are left out."""
    answers = store.get_answers(session, user.id, answers_id)
    judgements = store.list_judgements(session, [answers.id])
    scores = {judgement.key: read_scores(files, answers, judgement.key) for judgement in judgements}
    return [
        AnswerView(**row, scores={key: found.get((row["index"], row["draw"])) for key, found in scores.items()})
        for row in read_answers(files, answers, start, limit)
    ]


@router.get("/{answers_id}/tokens/{index}", operation_id="read_tokens", summary="Read the tokens of the answers to one prompt")
def list_tokens(session: ReadSession, files: CurrentFiles, user: CurrentUser, answers_id: str, index: int) -> list[TokensView]:
    """Ids and log-probabilities under the model itself, of each draw; empty for uploaded answers."""
    return [TokensView(**row) for row in read_tokens(files, store.get_answers(session, user.id, answers_id), index)]


@router.post("/{answers_id}/judges", status_code=202, operation_id="judge_answers", summary="Ask more judges")
def judge_answers(
    session: WriteSession, user: CurrentUser, answers_id: str, body: Annotated[JudgesRequest, Body(openapi_examples=JUDGES)]
) -> AnswersView:
    """The answers are not made anew; what a judge has said already stays."""
    answers = service.judge(session, user.id, answers_id, body.judges)
    return show(store.describe_answers(session, [answers])[0])


@router.post("/{answers_id}/farm", operation_id="preview_farm", summary="See what a data set of the answers would hold")
def preview_farm(
    session: ReadSession, files: CurrentFiles, user: CurrentUser, answers_id: str,
    asked: Annotated[FarmRequest, Body(openapi_examples=FARMS)],
) -> FarmView:  # fmt: skip
    """Rows, gaps and lengths, before anything is made."""
    return FarmView.model_validate(farm.preview(session, files, user.id, answers_id, asked))


@router.post("/{answers_id}/dataset", status_code=201, operation_id="farm_answers", summary="Make a data set of the answers")
async def farm_answers(
    request: Request, database: CurrentDatabase, user: CurrentUser, response: Response, answers_id: str,
    asked: Annotated[FarmRequest, Body(openapi_examples=FARMS)],
) -> DatasetDetail:  # fmt: skip
    """An ordinary data set, mapped and audited, that says where each row is from."""
    dataset_id = await grow(request, user.id, answers_id, asked)
    response.headers["location"] = f"/api/v1/datasets/{dataset_id}"
    return await read_apart(request, read_dataset, database, user.id, dataset_id)


def read_dataset(database: Database, owner_id: str, dataset_id: str) -> DatasetDetail:
    with database.reading() as session:
        return show_detail(get_dataset(session, owner_id, dataset_id))


@router.patch("/{answers_id}", operation_id="change_answers", summary="Rename answers, make them private, or share them")
def change_answers(session: WriteSession, user: CurrentUser, answers_id: str, body: ChangeBody) -> AnswersView:
    """What was asked stays as it is."""
    answers = change(session, user.id, Answers, answers_id, body)
    return show(store.describe_answers(session, [answers])[0])


@router.delete("/{answers_id}", status_code=204, operation_id="delete_answers", summary="Delete answers")
def delete_answers(session: WriteSession, files: CurrentFiles, user: CurrentUser, answers_id: str) -> None:
    """With their scores and runs. 409 while a run is at them, or a comparison shows them."""
    service.delete(session, files, user.id, answers_id)
