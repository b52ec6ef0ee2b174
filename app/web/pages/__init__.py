"""The pages: server-rendered, live where something moves. Reads go to the store, every change to the services."""

from app.web.pages import (
    datasets,
    experiments,
    home,
    mapping,
    models,
    names,
    patterns,
    queue,
    recipe_templates,
    runs,
    scorings,
    storage,
    sweeps,
    workers,
)  # fmt: skip
from app.web.pages.accounts import account, acts, users
from app.web.pages.answering import answers, endpoints, playground, prompt_sets
from app.web.pages.comparing import comparisons, links, new, votes
from app.web.pages.launch import form, preview, reading, start, summary
from app.web.pages.run import actions, batch, examples, overview, result, samples, status, steering, stream

PAGES = (
    home, patterns, form, preview, reading, start, summary, recipe_templates, runs,
    stream, status, steering, result, overview, samples, batch, examples, actions,
    queue, workers, sweeps, experiments, scorings, mapping, datasets, models, endpoints, storage,
    account, users, acts, new, prompt_sets, answers, comparisons, votes, links, playground, names,
)  # fmt: skip
ROUTERS = [page.router for page in PAGES]
