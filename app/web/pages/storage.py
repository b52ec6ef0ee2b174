"""The storage page: what the studio's files take, and what to do when there is no room."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.store.files.disk import Storage
from app.web.dependencies import CurrentDatabase
from app.web.rendering.environment import Context, render

router = APIRouter()

NAMES = {
    "datasets": ("Data sets", "Uploaded files and their examples", "/datasets"),
    "models": ("Models", "Models taken over from runs", "/models"),
    "checkpoints": (
        "Checkpoints",
        "What runs resume from; STUDIO_CHECKPOINTS_DAYS lets old ones go",
        "/runs",
    ),
    "artifacts": ("Artifacts", "Models and tables that runs have left", "/runs"),
    "attempts": ("Attempts", "Logs and spools of runs", "/runs"),
    "scorings": ("Scorings", "Kept log π_ref and rewards; they can be computed again", "/scorings"),
    "hub": ("Hub", "Models downloaded from the hub; they can be downloaded again", "/models"),
    "uploads": ("Uploads", "Files on their way in", "/datasets"),
    "database": ("Database", "Rows and journals, where SQLite keeps them", ""),
    "other": ("Other", "Anything else in the data folder", ""),
}


@dataclass(frozen=True)
class StorageBar:
    """One part of the data folder."""

    title: str
    text: str
    href: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class StoragePage(Context):
    template = "storage.html"

    storage: Storage
    bars: list[StorageBar]


@router.get("/storage")
def show_storage(request: Request, database: CurrentDatabase) -> HTMLResponse:
    """The largest part first."""
    storage = database.disk.look()
    parts = sorted(storage.parts.items(), key=lambda part: -part[1])
    bars = [StorageBar(*NAMES[name], num_bytes) for name, num_bytes in parts]
    return render(request, StoragePage(storage=storage, bars=bars))
