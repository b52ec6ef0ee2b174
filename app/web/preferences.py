"""A comparison's votes, or a judge's order, become a data set: written, then read like any upload."""

from fastapi import Request

from app.services.comparing import exports
from app.services.comparing.computing import get_computed
from app.store.comparing.comparisons import get_comparison
from app.store.database import Database
from app.store.files.files import Files
from app.web.dependencies import write_apart
from app.web.uploads import taking_place, wait_for_reading

NOT_READY = "Not all answers of this comparison are there yet, so nothing is preferred."


async def make_preferences(
    request: Request,
    database: Database,
    files: Files,
    owner_id: str,
    comparison_id: str,
    judge: str,
    margin: float,
    name: str = "",
) -> str:
    """Return the id of a new data set. Raises NotFound, InvalidInput, Conflict."""
    async with taking_place(request, owner_id):
        dataset_id = await write_apart(request, write, database, files, owner_id, comparison_id, judge, margin, name)
        await wait_for_reading(request, owner_id, dataset_id)
    return dataset_id


def write(database: Database, files: Files, owner_id: str, comparison_id: str, judge: str, margin: float, name: str) -> str:
    with database.writing() as session:
        comparison = get_comparison(session, owner_id, comparison_id)
        kept = get_computed(session, files, comparison, NOT_READY)
        return exports.make_dataset(session, files, comparison, kept, owner_id=owner_id, judge=judge, margin=margin, name=name).id
