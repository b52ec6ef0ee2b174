"""REST, version 1: thin doors to the services. Every body, answer and error is typed and stands in the OpenAPI document."""

from app.web.api import (
    acts,
    datasets,
    models,
    queue,
    readings,
    records,
    runs,
    scorings,
    storage,
    sweeps,
    tokens,
    users,
    workers,
)
from app.web.api.answering import endpoints
from app.web.api.comparing import comparisons, votes
from app.web.errors import Problem

PROBLEMS: dict[int | str, dict[str, object]] = {
    "default": {"model": Problem, "description": "An error: what is wrong, where, and what to do."}
}

PREFIX = "/api/v1"
NOUNS = (
    runs,
    datasets,
    readings,
    models,
    endpoints,
    scorings,
    queue,
    sweeps,
    records,
    workers,
    users,
    tokens,
    acts,
    storage,
    comparisons,
    votes,
)
ROUTERS = [noun.router for noun in NOUNS]
