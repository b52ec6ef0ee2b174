"""REST: scorings. Asked for with a recipe, looked at, previewed, checked, deleted."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import BaseModel, Field, model_validator

from app.domain.errors import Conflict
from app.domain.events import FindingRaised
from app.domain.findings import raise_finding
from app.domain.preview.weights import PreviewResult
from app.domain.recipe import Preset, Recipe
from app.domain.scoring import RewardCheck, ScoringFacts, describe_disagreement, describe_flat, describe_inverted, has_all_pairs
from app.services import scorings as service
from app.store import scorings as store
from app.store.scorings import ScoringRow
from app.store.tables import Run, Scoring
from app.web.api.paging import After, Limit, Page, to_page
from app.web.api.sharing import ChangeBody, Mine, OwnedView, Private, change, owned
from app.web.dependencies import CurrentFiles, CurrentUser, ReadSession, WriteSession
from app.web.preview_requests import PreviewQuery, answer, read_request, refuse_unknown

router = APIRouter(prefix="/scorings", tags=["scorings"])


class ScoringRecipe(Recipe):
    """A recipe whose weights may be left out: scores depend on neither λ nor preset."""

    @model_validator(mode="before")
    @classmethod
    def weights_are_optional(cls, data: Any) -> Any:
        weights = data.get("weights") if isinstance(data, dict) else None
        if isinstance(data, dict) and (weights is None or weights == {}):
            return {**data, "weights": {"preset": Preset.REWARD_WEIGHTED, "lambda": 1.0}}
        return data


class ScoringView(OwnedView):
    """A scoring as lists show it."""

    id: str = Field(examples=["scoring_01kb4y7v3m2q8d5n6c9t0r1x2z"])
    name: str
    state: str = Field(description="queued, paused, running, ready, failed or cancelled.")
    reason: str = Field(description="Why it failed or was cancelled.")
    remedy: str = Field(description="What to do then.")
    dataset_id: str
    policy_id: str
    reward_id: str | None
    run_id: str | None = Field(description="The run that makes it; null when a training run did on its way.")
    all_pairs: bool = Field(description="Whether every preset and λ can be previewed: no pair was left out.")
    num_pairs: int | None = Field(description="Prompt-response pairs with a log-probability.")
    size_bytes: int | None
    num_runs: int = Field(description="Training runs that use it.")
    created_at: datetime
    used_at: datetime


class UserView(BaseModel):
    """A training run that uses the scoring."""

    id: str
    name: str
    state: str


class ScoringDetail(ScoringView):
    """A scoring with what is in it."""

    settings: dict[str, Any] = Field(description="The parts of the recipe that the scores depend on.")
    facts: ScoringFacts | None = Field(
        description="Its artifacts, their sizes, hits and reasons of misses; null until it is ready."
    )
    runs: list[UserView] = Field(description="The newest training runs that use it.")


class RewardCheckView(RewardCheck):
    """What the rewards know of the labels, with the findings in words."""

    findings: list[FindingRaised]


EXAMPLES = {
    "preference": {
        "summary": "Rewards from the preference labels",
        "value": {"dataset": "data_01kb4y7v3m2q8d5n6c9t0r1x2z", "policy": {"model": "model_01kb4y7v3m2q8d5n6c9t0r1x2z"}},
    },
    "reward_model": {
        "summary": "Rewards from a reward model, in batches of 16 prompts",
        "value": {
            "dataset": "data_01kb4y7v3m2q8d5n6c9t0r1x2z",
            "policy": {"model": "model_01kb4y7v3m2q8d5n6c9t0r1x2z"},
            "reward": {"source": "model", "model": "model_01kb4y7v3m2q8d5n6c9t0r1x30"},
            "training": {"batch_size": 16},
        },
    },
}


def show(row: ScoringRow) -> ScoringView:
    scoring, standing = row.scoring, service.standing_of(row.scoring, row.run)
    facts = ScoringFacts.model_validate(scoring.facts) if scoring.facts else None
    return ScoringView(
        id=scoring.id,
        **owned(scoring),
        name=scoring.name,
        state=standing.state,
        reason=standing.reason,
        remedy=standing.remedy,
        dataset_id=scoring.dataset_id,
        policy_id=scoring.policy_id,
        reward_id=scoring.reward_id,
        run_id=scoring.run_id,
        all_pairs=facts is not None and has_all_pairs(facts),
        num_pairs=facts.logprob.num_scored if facts else None,
        size_bytes=facts.logprob.size_bytes + (facts.reward.size_bytes if facts.reward else 0) if facts else None,
        num_runs=row.num_runs,
        created_at=scoring.created_at,
        used_at=scoring.used_at,
    )


def show_detail(row: ScoringRow, users: list[Run]) -> ScoringDetail:
    scoring = row.scoring
    views = [UserView(id=run.id, name=run.name, state=run.told_state) for run in users]
    facts = ScoringFacts.model_validate(scoring.facts) if scoring.facts else None
    return ScoringDetail(**show(row).model_dump(), settings=scoring.settings, facts=facts, runs=views)


@router.post("", status_code=202, operation_id="request_scoring", summary="Ask for a scoring")
def request_scoring(
    recipe: Annotated[ScoringRecipe, Body(openapi_examples=EXAMPLES)],
    session: WriteSession,
    user: CurrentUser,
    response: Response,
    private: Private = False,
) -> ScoringView:
    """Queues a run that scores the data set with this recipe's policy and rewards, all pairs of each batch, unless they are
    scored already. Asking again gives the same scoring; one that failed is queued again. Weights may be left out.
    """
    scoring = service.request(session, user.id, recipe, private=private)
    response.headers["location"] = f"/api/v1/scorings/{scoring.id}"
    return show(store.describe_scorings(session, [scoring])[0])


@router.get("", operation_id="list_scorings", summary="List scorings")
def list_scorings(
    session: ReadSession,
    user: CurrentUser,
    dataset: Annotated[str | None, Query(max_length=80, description="Only those of this data set.")] = None,
    mine: Mine = False,
    after: After = None,
    limit: Limit = 50,
) -> Page[ScoringView]:
    """Newest first, all or those of one data set."""
    rows = store.list_scorings(session, user.id, dataset_id=dataset, mine=mine, after=after, limit=limit + 1)
    return to_page(store.describe_scorings(session, rows), limit, show, lambda row: row.scoring.id)


@router.get("/{scoring_id}", operation_id="get_scoring", summary="Get a scoring")
def get_scoring(session: ReadSession, user: CurrentUser, scoring_id: str) -> ScoringDetail:
    """One scoring with its artifacts, hits and reasons of misses, and the runs that use it."""
    scoring = store.get_scoring(session, user.id, scoring_id)
    return show_detail(store.describe_scorings(session, [scoring])[0], store.list_users(session, user.id, scoring_id))


@router.patch("/{scoring_id}", operation_id="change_scoring", summary="Rename a scoring, make it private, or share it")
def change_scoring(session: WriteSession, user: CurrentUser, scoring_id: str, body: ChangeBody) -> ScoringView:
    """Its scores, and which of your runs reuse them, stay as they are."""
    scoring = change(session, user.id, Scoring, scoring_id, body)
    return show(store.describe_scorings(session, [scoring])[0])


@router.delete("/{scoring_id}", status_code=204, operation_id="delete_scoring", summary="Delete a scoring")
def delete_scoring(
    session: WriteSession,
    files: CurrentFiles,
    user: CurrentUser,
    scoring_id: str,
    anyway: Annotated[bool, Query(description="Also when runs that have ended used it; they stay.")] = False,
) -> None:
    """Removes it with the artifacts that no other scoring shares. 409 while a run that has not ended uses or makes it, and
    while there are runs that used it, unless `anyway` is true.
    """
    service.delete(session, files, user.id, scoring_id, anyway=anyway)


@router.get("/{scoring_id}/check", operation_id="check_rewards", summary="Check the rewards of a scoring")
def check_rewards(session: ReadSession, user: CurrentUser, scoring_id: str) -> RewardCheckView:
    """How well the rewards agree with the preference labels, beside the rule "longer is better", and how they are spread."""
    check = facts_of(store.get_scoring(session, user.id, scoring_id)).check
    return RewardCheckView(**check.model_dump(), findings=judge(check))


def facts_of(scoring: Scoring) -> ScoringFacts:
    """Raises: Conflict while there are none."""
    if scoring.facts is None:
        raise Conflict(f"The scoring “{scoring.name}” isn't ready, so there are no rewards to check yet.")
    return ScoringFacts.model_validate(scoring.facts)


def judge(check: RewardCheck) -> list[FindingRaised]:
    """Return what is wrong with the rewards as a whole."""
    found = []
    if check.inverted:
        found.append(raise_finding("inverted_rewards", describe_inverted(check)))
    if check.flat:
        found.append(raise_finding("flat_rewards", describe_flat(check)))
    if evidence := describe_disagreement(check.ensemble):
        found.append(raise_finding("reward_disagreement", evidence))
    return found


@router.get("/{scoring_id}/preview", operation_id="preview_weights", summary="Preview the weights of a λ grid")
async def preview_weights(
    request: Request, user: CurrentUser, scoring_id: str, query: Annotated[PreviewQuery, Query()]
) -> PreviewResult:
    """For every preset × λ × batch size what the weights would be, without training: histogram, effective sample size, shares
    of chosen and rejected, correlations, findings, the heaviest and lightest responses; and the λ for a wanted effective sample
    size.
    A choice of the weights is overridden with `weights.NAME=VALUE`, such as `weights.logprob_norm=mean`. Answers are kept.
    503 with Retry-After when no worker answers in time.
    """
    refuse_unknown(request.query_params)
    asked = read_request(query.model_dump(by_alias=True), request.query_params)
    return await answer(request, user.id, scoring_id, asked)
