"""Models: the list with its form, and letting one go."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.domain.errors import ModelInvalid, StudioError
from app.domain.model import ModelRequest
from app.domain.problems import parse
from app.domain.recipe import Method
from app.domain.run import RunKind, RunState
from app.services import models as service
from app.settings import Settings
from app.store import models as store
from app.store import runs
from app.store.tables import Model, Run
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentSettings, CurrentUser, ReadSession, WriteSession
from app.web.rendering.choices import Choice, run_choices
from app.web.rendering.environment import Context, render

router = APIRouter()

PAGE_SIZE = 50
EMPTY = {"kind": "policy", "source": "hub", "name": "", "path": "", "run_id": "", "revision": ""}


@dataclass(frozen=True, kw_only=True)
class ModelsPage(Context):
    template = "models/list.html"

    models: list[Model]
    next_after: str
    roots: list[str]
    succeeded: list[Choice]
    values: Mapping[str, str]
    errors: Mapping[str, str]
    detail: str


After = Annotated[str, Query(max_length=60)]


@router.get("/models")
def list_models(
    request: Request, session: ReadSession, user: CurrentUser, settings: CurrentSettings, after: After = "", run: After = ""
) -> HTMLResponse:
    """The list; with `run`, its form is filled to take that run's model."""
    values = values_for(runs.get_run(session, user.id, run)) if run else EMPTY
    return page(request, session, user.id, settings, values, after=after)


def values_for(run: Run) -> dict[str, str]:
    """Return the form that registers what a run has trained."""
    is_reward = run.recipe.get("method") == Method.REWARD_MODEL
    return {**EMPTY, "kind": "reward" if is_reward else "policy", "source": "run", "run_id": run.id, "name": run.name}


@router.post("/models")
async def register_model(
    request: Request, database: CurrentDatabase, files: CurrentFiles, settings: CurrentSettings, user: CurrentUser
) -> Response:
    """The list with the new model on success; otherwise the form again, with what is wrong beside its field."""
    async with request.form(max_fields=20, max_files=0) as form:
        values = {name: str(form.get(name, default))[:1000].strip() for name, default in EMPTY.items()}

    def register() -> Response:
        try:
            asked = parse(ModelRequest, {**values, "revision": values["revision"] or None}, ModelInvalid)
            service.add_within(database, files, user.id, service.examine_within(database, files, settings, user.id, asked))
        except StudioError as error:
            with database.reading() as session:
                return page(request, session, user.id, settings, values, error=error)
        return RedirectResponse("/models", status_code=303)

    return await run_in_threadpool(register)


@router.post("/models/{model_id}/delete")
def delete_model(session: WriteSession, files: CurrentFiles, user: CurrentUser, model_id: str) -> Response:
    service.delete(session, files, user.id, model_id)
    return RedirectResponse("/models", status_code=303)


def list_trained(session: Session, owner_id: str, wanted: str) -> list[Run]:
    """Return the newest runs that have a model to take, and the wanted one however old it is."""
    found = [
        run for run in runs.list_runs(session, owner_id, state=RunState.SUCCEEDED, limit=200) if run.kind == RunKind.TRAINING
    ]
    older = session.get(Run, wanted) if wanted and wanted not in {run.id for run in found} else None
    return [older, *found] if older is not None and older.owner_id == owner_id else found


def page(
    request: Request,
    session: Session,
    owner_id: str,
    settings: Settings,
    values: Mapping[str, str],
    *,
    after: str = "",
    error: StudioError | None = None,
) -> HTMLResponse:
    found = store.list_models(session, owner_id, after=after or None, limit=PAGE_SIZE + 1)
    faults = error.problems if isinstance(error, ModelInvalid) else []
    context = ModelsPage(
        models=found[:PAGE_SIZE],
        next_after=found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else "",
        roots=[str(root) for root in service.roots_of(settings)],
        succeeded=run_choices(list_trained(session, owner_id, values["run_id"])),
        values=values,
        errors={str(fault["field"]): str(fault["message"]) for fault in faults if fault.get("field") in EMPTY},
        detail=error.detail if error else "",
    )
    return render(request, context, status=error.status if error else 200)
