"""Whether a worker of this machine is alive: `python -m worker.health` ends with 0 when one has beaten within a lease, else 1.

The health check of the worker's container: it asks the same database that the workers report to.
"""

import socket
import sys
from datetime import timedelta

from sqlalchemy import func, select

from app.domain.errors import Unavailable
from app.settings import Settings
from app.store.database import Database, now
from app.store.tables import Worker


def main() -> int:
    """Return the exit status; says on standard error why it is not 0."""
    settings = Settings()
    database = Database(settings)
    hostname = socket.gethostname()
    try:
        with database.reading() as session:
            beat_at = session.scalar(select(func.max(Worker.beat_at)).where(Worker.hostname == hostname))
            is_fresh = beat_at is not None and now(session) - beat_at < timedelta(seconds=settings.lease_seconds)
    except Unavailable as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    finally:
        database.close()
    if not is_fresh:
        sys.stderr.write(f"No worker on {hostname} has beaten within {settings.lease_seconds:g} s; the last time: {beat_at}.\n")
    return 0 if is_fresh else 1


if __name__ == "__main__":
    sys.exit(main())
