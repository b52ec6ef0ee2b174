"""The pages: server-rendered, live where something moves. Reads go to the store, every change to the services."""

from app.web.pages import (
    datasets,
    launch,
    launch_preview,
    launch_reading,
    mapping,
    models,
    names,
    queue,
    run_queue,  # fmt: skip
    run_status,
    run_stream,
    runs,
    scorings,
    storage,
    sweeps,
    workers,
)
from app.web.pages.accounts import account, acts, users

PAGES = (
    launch, launch_preview, launch_reading, run_stream, run_status, run_queue, runs, queue, workers, sweeps, scorings, mapping,
    datasets, models, storage, account, users, acts, names,
)  # fmt: skip
ROUTERS = [page.router for page in PAGES]
