"""REST, version 1: thin doors to the services. Every body, answer and error is typed and stands in the OpenAPI document."""

from fastapi import APIRouter

from app.web.api import datasets, models, queue, readings, records, runs, scorings, storage, sweeps, workers
from app.web.errors import Problem

PROBLEMS: dict[int | str, dict[str, object]] = {
    "default": {"model": Problem, "description": "An error: what is wrong, where, and what to do."}
}

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)
for noun in (datasets, readings, models, scorings, runs, queue, sweeps, records, workers, storage):
    router.include_router(noun.router)
