"""From a comparison's page: further judges asked, vote links made and revoked, voters removed, preferences made a data set."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from app.services.comparing import vote_links, votes
from app.services.comparing.asking import judge
from app.store.comparing.comparisons import get_comparison
from app.store.sharing import get_changeable
from app.store.tables import Comparison, VoteLink
from app.web.dependencies import (
    CurrentActor,
    CurrentDatabase,
    CurrentFiles,
    CurrentSettings,
    CurrentUser,
    ReadSession,
    WriteSession,
    write_apart,
)
from app.web.pages.answering.answers import read_judges
from app.web.preferences import make_preferences
from app.web.rendering.environment import Context, go_to, render

router = APIRouter()


@dataclass(frozen=True, kw_only=True)
class NewLinkPage(Context):
    template = "comparisons/new_link.html"

    comparison: Comparison
    link: VoteLink | None  # None: it was shown before
    url: str


@router.post("/comparisons/{comparison_id}/judges")
async def ask_judges(request: Request, database: CurrentDatabase, user: CurrentUser, comparison_id: str) -> Response:
    """Of all answers at once; the page then shows how far they are."""
    judges = await read_judges(request)

    def ask() -> Response:
        with database.writing() as session:
            judge(session, user.id, comparison_id, judges)
        return go_to(request, f"/comparisons/{comparison_id}")

    return await write_apart(request, ask)


@router.post("/comparisons/{comparison_id}/links")
def make_link(
    request: Request, session: WriteSession, actor: CurrentActor, settings: CurrentSettings, comparison_id: str,
    days: Annotated[int, Form(ge=1, le=vote_links.MAX_DAYS)] = vote_links.DEFAULT_DAYS,
) -> HTMLResponse:  # fmt: skip
    """Shown once: only its digest is kept."""
    comparison = get_changeable(session, Comparison, actor.id, comparison_id)
    link, secret = vote_links.create_link(session, actor, comparison, days)
    return render(request, NewLinkPage(comparison=comparison, link=link, url=f"{settings.url}/vote/{secret}"), status=201)


@router.get("/comparisons/{comparison_id}/links")
def explain_link(request: Request, session: ReadSession, user: CurrentUser, comparison_id: str) -> HTMLResponse:
    """For who comes back to the address where a link was shown: it can't be shown again."""
    return render(request, NewLinkPage(comparison=get_comparison(session, user.id, comparison_id), link=None, url=""))


@router.post("/comparisons/{comparison_id}/links/{link_id}/revoke")
def revoke_link(session: WriteSession, actor: CurrentActor, comparison_id: str, link_id: str) -> Response:
    vote_links.revoke_link(session, actor, get_changeable(session, Comparison, actor.id, comparison_id), link_id)
    return back_to(comparison_id)


@router.post("/comparisons/{comparison_id}/voters/{voter_id}/remove")
def remove_voter(session: WriteSession, user: CurrentUser, comparison_id: str, voter_id: str) -> Response:
    votes.remove_voter(session, get_changeable(session, Comparison, user.id, comparison_id), voter_id)
    return back_to(comparison_id)


@router.post("/comparisons/{comparison_id}/dataset")
async def make_dataset(
    request: Request, database: CurrentDatabase, files: CurrentFiles, user: CurrentUser, comparison_id: str,
    judge: Annotated[str, Form(max_length=64)] = "votes", margin: Annotated[float, Form(ge=0, allow_inf_nan=False)] = 0.0,
) -> Response:  # fmt: skip
    """Then the data set's page."""
    dataset_id = await make_preferences(request, database, files, user.id, comparison_id, judge, margin)
    return go_to(request, f"/datasets/{dataset_id}")


def back_to(comparison_id: str) -> Response:
    return RedirectResponse(f"/comparisons/{comparison_id}#votes", status_code=303)
