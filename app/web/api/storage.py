"""REST: how much the studio's files take, of what, and how much more they may."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.store.files.disk import Storage
from app.web.dependencies import CurrentDatabase

router = APIRouter(prefix="/storage", tags=["system"])


class StorageView(BaseModel):
    """Sizes in bytes."""

    used_bytes: int = Field(description="All files of the data folder.")
    parts: dict[str, int] = Field(description="The same, by part.", examples=[{"datasets": 1000, "checkpoints": 5000}])
    quota_bytes: int = Field(description="How much they may take; 0: no limit.")
    free_bytes: int = Field(description="Free on the disk.")
    disk_bytes: int = Field(description="Size of the disk.")
    min_free_bytes: int = Field(description="How much is to stay free; 0: no limit.")
    full: bool = Field(description="Nothing new is taken in; runs that run go on.")
    reason: str = Field(description="Why; empty while there is room.")


@router.get("", operation_id="get_storage", summary="How full is the studio?")
def get_storage(database: CurrentDatabase) -> StorageView:
    """Measured a few seconds ago at most, or somewhat longer when there are very many files."""
    return show(database.disk.look())


def show(storage: Storage) -> StorageView:
    return StorageView(
        used_bytes=storage.used_bytes, parts=storage.parts, quota_bytes=storage.quota_bytes, free_bytes=storage.free_bytes,
        disk_bytes=storage.disk_bytes, min_free_bytes=storage.min_free_bytes, full=storage.is_full, reason=storage.reason,
    )  # fmt: skip
