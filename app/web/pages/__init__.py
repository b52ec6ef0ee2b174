"""The pages: server-rendered, live where something moves. Reads go to the store, every change to the services."""

from fastapi import APIRouter

from app.web.pages import datasets, launch, live, mapping, models, previews, runs, scorings, standing, storage, sweeps

router = APIRouter(include_in_schema=False)
for page in (launch, previews, live, standing, runs, sweeps, scorings, mapping, datasets, models, storage):
    router.include_router(page.router)
