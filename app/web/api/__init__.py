"""REST, version 1: thin doors to the services. Every body, answer and error is typed and stands in the OpenAPI document."""

from app.web.api import (
    acts,
    datasets,
    experiments,
    models,
    queue,
    readings,
    recipe_templates,
    records,
    runs,
    scorings,
    storage,
    sweeps,
    tokens,
    users,
    workers,
)
from app.web.api.answering import answers, chats, endpoints, prompt_sets
from app.web.api.comparing import comparisons, votes
from app.web.errors import Problem

PROBLEMS: dict[int | str, dict[str, object]] = {
    "default": {"model": Problem, "description": "An error: what is wrong, where, and what to do."}
}

PREFIX = "/api/v1"
NOUNS = (
    recipe_templates, runs, datasets, readings, models, endpoints, scorings, queue, sweeps, experiments, prompt_sets, answers,
    comparisons, votes, chats, records, workers, users, tokens, acts, storage,
)  # fmt: skip
ROUTERS = [noun.router for noun in NOUNS]
