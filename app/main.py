"""The web process, wired: `uvicorn --factory app.main:create_app`, as `varstudio up` calls it. No torch is ever loaded here."""

import gc
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import State
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.domain.errors import StudioError
from app.ingest.pool import IngestPool
from app.services import accounts, datasets
from app.settings import Settings, explain
from app.store.database import Database
from app.store.files import parquet
from app.store.files.files import make_root
from app.store.files.shared_files import open_files
from app.store.models import make_relative
from app.system.files import keep_private
from app.web import api, booth, errors, login, pages
from app.web.api import system
from app.web.api.document import reference
from app.web.bodies import Bodies
from app.web.dependencies import require_user
from app.web.pages.demonstration import Demonstration
from app.web.prometheus import RequestMetrics
from app.web.request_log import Requests
from app.web.security import FailedTries, Guard, HideLoginSecrets
from app.web.static import StudioFiles
from app.web.stream import SharedReads
from app.web.tethers import Tethers


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the whole web application. Everything but the login, vote links, /healthz and /static sits behind `require_user`."""
    if settings is None:
        return create_own_app()
    app = FastAPI(
        title="VAR Studio",
        version="1",
        description=reference.DESCRIPTION,
        openapi_tags=reference.TAGS,
        openapi_url=None,  # the routes of the document stand behind the login like all others
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.database = Database(settings)
    app.state.bell = app.state.database.bell
    app.state.files = open_files(settings)
    app.state.gates = WeakKeyDictionary()
    app.state.shared_reads = SharedReads(app.state.database)
    app.state.ingest = IngestPool(settings)
    app.state.demonstration = Demonstration(settings)
    app.state.failed_tries = FailedTries()
    app.state.metrics = RequestMetrics()
    errors.install(app)
    logging.getLogger("uvicorn.access").addFilter(HideLoginSecrets())
    app.add_middleware(Bodies, settings=settings)
    app.add_middleware(Tethers)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(PlainRefusal, state=app.state)
    app.add_middleware(Requests, metrics=app.state.metrics)
    app.include_router(login.router)
    app.include_router(booth.router)
    app.include_router(system.open_router)
    app.router.routes.extend(inner_routes())
    app.mount("/static", StudioFiles(), name="static")
    return app


def create_own_app() -> FastAPI:
    """Return the application of a process of its own, by the environment; ends the process with a sentence when that can't be."""
    keep_private()
    try:
        settings = Settings()
        logs.configure(settings.log_format, settings.log_level)
        if fault := settings.find_public_url_fault():
            sys.exit(fault)
        make_root(settings.root)
        app = create_app(settings)
        work_out(app.routes)
        gc.collect()
        gc.freeze()  # what was imported stays: no later look for garbage goes through all of it, in the middle of a request
        return app
    except ValidationError as error:
        sys.exit(explain(error))
    except StudioError as error:
        sys.exit(error.detail)


class PlainRefusal:
    """Lets the server say why it doesn't start in a sentence, where Starlette would hand it a traceback."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return

        async def say(message: Message) -> None:
            refusal = getattr(self.state, "refusal", None)
            if message["type"] == "lifespan.startup.failed" and refusal is not None:
                message = {**message, "message": refusal}
            await send(message)

        await self.app(scope, receive, say)


@cache
def inner_routes() -> tuple[BaseRoute, ...]:
    """Return all that one must be signed in for: default deny. One for all apps of a process, as each route is worked out once.

    One by one, as FastAPI looks for the route once more on each level of routers in routers: a third of a launch's time.
    """
    inner, signed_in = APIRouter(), [Depends(require_user)]
    for router in api.ROUTERS:
        inner.include_router(router, prefix=api.PREFIX, responses=api.PROBLEMS, dependencies=signed_in)
    for router in pages.ROUTERS:
        inner.include_router(router, include_in_schema=False, dependencies=signed_in)
    for router in (login.inner_router, system.router, reference.router):
        inner.include_router(router, dependencies=signed_in)
    return tuple(inner.routes)


def work_out(routes: Sequence[BaseRoute]) -> None:
    """Have FastAPI look at the arguments of every route now: a third of a second, which the first request would take."""
    for _ in iter_route_contexts(routes):
        pass


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Bring the tables up to date, sweep what a crash left, greet the first user, start the bell and the ingest pool."""
    try:
        await run_in_threadpool(prepare, app)
        await app.state.bell.start()
        yield
        await app.state.bell.stop()
    except StudioError as error:
        app.state.refusal = error.detail
        raise
    finally:  # also of a start that was refused half way: its children would outlive it
        app.state.demonstration.close()
        app.state.ingest.close()
        parquet.close()
        app.state.database.close()


def prepare(app: FastAPI) -> None:
    """What must be true before the first request."""
    settings, database, files = app.state.settings, app.state.database, app.state.files
    make_root(settings.root)
    database.migrate()
    files.sweep_uploads()
    files.sweep_scorings()
    app.state.ingest.start()
    datasets.resume_processing(database, files, app.state.ingest)
    with database.writing() as session:
        make_relative(session, files.root)
        secret = accounts.greet(session)
    if secret is not None:
        sys.stderr.write(f"\nSign in (once, within {accounts.LOGIN_LINK_HOURS} hours): {settings.url}/login/{secret}\n\n")
