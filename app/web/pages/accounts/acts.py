"""The log of acts: sign-ins, tokens, and what admins did; others than admins see what concerns themselves."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from app.services.acts import KINDS
from app.store import accounts as store
from app.store.tables import Act
from app.web.dependencies import CurrentActor, CurrentSettings, ReadSession
from app.web.rendering.environment import Context, render

router = APIRouter()

PAGE_SIZE = 100

After = Annotated[str, Query(max_length=80)]
Kind = Annotated[str, Query(max_length=32)]


@dataclass(frozen=True, kw_only=True)
class ActsPage(Context):
    template = "accounts/acts.html"

    acts: list[Act]
    kinds: dict[str, str]
    kind: str
    sees_all: bool
    days: float  # for which lines are kept
    after: str
    next_after: str


@router.get("/acts")
def list_acts(
    request: Request, session: ReadSession, actor: CurrentActor, settings: CurrentSettings, after: After = "", kind: Kind = ""
) -> HTMLResponse:
    chosen = kind if kind in KINDS else ""
    of = None if actor.is_admin else actor.id
    found = store.list_acts(session, of=of, kind=chosen or None, after=after or None, limit=PAGE_SIZE + 1)
    shown = found[:PAGE_SIZE]
    page = ActsPage(
        acts=shown, kinds=KINDS, kind=chosen, sees_all=actor.is_admin, days=settings.acts_days, after=after,
        next_after=shown[-1].id if len(found) > PAGE_SIZE else "",
    )  # fmt: skip
    return render(request, page)
