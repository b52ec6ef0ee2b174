"""The pages: server-rendered, live where something moves. Reads go to the store, every change to the services."""

from fastapi import APIRouter

from app.web.pages import (
    datasets,
    launch,
    live,
    mapping,
    models,
    previews,
    queue,
    runs,
    scorings,
    standing,
    steering,
    storage,
    sweeps,
    workers,
)  # fmt: skip

router = APIRouter(include_in_schema=False)
for page in (
    launch, previews, live, standing, steering, runs, queue, workers, sweeps, scorings, mapping, datasets, models, storage,
):  # fmt: skip
    router.include_router(page.router)
