"""What a backup says of itself: the manifest at the end of its archive."""

from datetime import datetime
from pathlib import PurePosixPath

from pydantic import BaseModel, ValidationError

from app.domain.errors import InvalidInput

FORMAT = 1
FOLDERS = ("datasets", "models", "runs", "scorings", "prompt_sets", "answers", "demonstration")  # which hold what rows speak of


class Member(BaseModel):
    """What is known of a member; `num_rows` of a table only."""

    size_bytes: int
    sha256: str
    num_rows: int = 0


class BackupManifest(BaseModel):
    """What a backup holds and where it comes from; tables in the order in which they can be filled."""

    format: int = FORMAT
    studio: str
    revision: str
    database: str
    data_dir: str
    created_at: datetime
    with_scorings: bool = True
    tables: dict[str, Member] = {}
    files: dict[str, Member] = {}
    missing: list[str] = []  # files that went or changed while they were copied

    @property
    def num_rows(self) -> int:
        return sum(table.num_rows for table in self.tables.values())

    @property
    def num_bytes(self) -> int:
        return sum(member.size_bytes for members in (self.tables, self.files) for member in members.values())


def parse_manifest(archive: str, data: bytes) -> BackupManifest:
    """Return the manifest of an archive, whose name is for the sentence.

    Raises: InvalidInput when it isn't one, is of another format, or names a file outside the data folder.
    """
    try:
        manifest = BackupManifest.model_validate_json(data)
    except ValidationError as error:
        raise InvalidInput(f"{archive} has a manifest that can't be read: it was not made by VAR Studio.") from error
    if manifest.format != FORMAT:
        raise InvalidInput(
            f"{archive} has the format {manifest.format}, and this VAR Studio reads {FORMAT}: use the version that made it."
        )
    for name in manifest.files:
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or place.as_posix() != name:
            raise InvalidInput(f"{archive} names the file {name!r}, which would lie outside the data folder: it is refused.")
    return manifest


def refuse_strange_files(archive: str, manifest: BackupManifest) -> None:
    """Raises InvalidInput for a file that no row speaks of, such as the database's own."""
    for name in manifest.files:
        first, *others = name.split("/")
        if first not in FOLDERS or not others or any(part.startswith(".") for part in others):
            raise InvalidInput(f"{archive} names the file {name!r}, which is none that a backup holds: it is refused.")
