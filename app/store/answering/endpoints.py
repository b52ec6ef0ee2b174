"""Endpoints: their rows, and the secret under which their keys are sealed."""

from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.settings import Settings
from app.store.tables import Endpoint
from app.system.sealing import Sealer, find_secret, make_secret

SEALING_FILE = "secret"  # in the data folder, where no setting gives one; in no backup


def get_endpoint(session: Session, endpoint_id: str) -> Endpoint:
    """Return an endpoint. Raises NotFound."""
    endpoint = session.get(Endpoint, endpoint_id)
    if endpoint is None:
        raise NotFound(f"There is no endpoint {endpoint_id!r}.")
    return endpoint


def list_endpoints(session: Session, *, after: str | None = None, limit: int = 50) -> list[Endpoint]:
    """Return the endpoints, newest first."""
    query = select(Endpoint).order_by(Endpoint.id.desc()).limit(limit)
    return list(session.scalars(query if after is None else query.where(Endpoint.id < after)))


def find_named(session: Session, name: str) -> Endpoint | None:
    return session.scalar(select(Endpoint).where(Endpoint.name == name))


def open_sealer(settings: Settings, *, may_make: bool = False) -> Sealer | None:
    """Return what seals and opens keys; None where there is no secret here, and none may be made."""
    path: Path = settings.root / SEALING_FILE
    secret = settings.secret or (make_secret(path) if may_make else find_secret(path))
    return None if secret is None else Sealer(secret)
