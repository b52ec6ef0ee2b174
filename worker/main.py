"""The worker: a Celery process that listens for hints, with the supervisor in a thread beside it. No torch in here.

python -P -m worker.main
"""

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any

from celery import Celery, signals
from celery.exceptions import SecurityWarning
from pydantic import ValidationError

from app import logs
from app.domain.errors import StudioError, Unavailable
from app.settings import Settings, explain
from app.store.database import Database
from app.store.files.files import make_root
from app.store.files.shared_files import open_files
from app.store.signals.hints import celery_config
from app.system.files import keep_private
from app.system.installation import find_untrainable
from worker import tasks
from worker.supervisor import RUNNER_COMMAND, Supervisor, name_worker

EMBEDDED_POLL_SECONDS = 0.2
END_SECONDS = 20.0
TABLES_SECONDS = 1.0

log = logging.getLogger(__name__)
try:
    settings = Settings()
except ValidationError as error:
    sys.exit(explain(error))
app = Celery("studio", include=["worker.tasks"])
app.conf.update(celery_config(settings), worker_pool="solo")  # in this process: a hint must reach the supervisor's thread


def await_tables(database: Database) -> None:
    """Return once the database has this version's tables; ends the process with a sentence when they are of a newer one.

    The embedded database has no migration step of its own; another is migrated by the web's start or `varstudio db upgrade`.
    """
    said = ""
    while True:
        try:
            if database.is_sqlite:
                database.migrate()
            if not database.needs_migration():
                return
            waits = "The database has not got this version's tables yet: waiting for the web, or for `varstudio db upgrade`."
        except Unavailable as error:
            waits = error.detail
        except StudioError as error:
            sys.exit(f"This worker can't start. {error.detail}")
        if waits != said:
            log.warning(waits)
            said = waits
        time.sleep(TABLES_SECONDS)


class Service:
    """The supervisor's thread, from the worker's start to its end."""

    def __init__(self) -> None:
        self.runner_command: Sequence[str] = RUNNER_COMMAND
        self.supervisor: Supervisor | None = None
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to supervise. Tables of the embedded broker are made first, so that no worker races for them."""
        make_root(settings.root)
        database = Database(settings)
        database.hints.prepare()
        await_tables(database)
        files = open_files(settings)
        self.supervisor = Supervisor(
            settings, database, files,
            runner_command=self.runner_command, hinted=tasks.hinted, previews_hinted=tasks.previews_hinted,
            chats_hinted=tasks.chats_hinted,
        )  # fmt: skip
        self.thread = threading.Thread(target=self.supervisor.run, name="supervisor", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Let runners save, and wait for them."""
        if self.supervisor is not None and self.thread is not None:
            self.supervisor.stop()
            self.thread.join(settings.grace_seconds + END_SECONDS)
            self.supervisor.database.close()


service = Service()


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def set_up_logging(**_: Any) -> None:
    """One line per record, with the worker, and with the run and the attempt where there is one."""
    logs.configure(settings.log_format, settings.log_level, worker=name_worker(settings))


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def start_service(**_: Any) -> None:
    """Before the broker is even connected: runs are found in the database, with or without it.

    Celery goes on after an error of its signals' receivers: a worker that does nothing would look alive. It sets up its log
    later than this, too late for what the supervisor says first.
    """
    set_up_logging()
    keep_private()
    if obstacle := find_untrainable():
        sys.exit(f"This worker can't start. {obstacle}")
    try:
        service.start()
    except StudioError as error:
        sys.exit(f"This worker can't start. {error.detail}")
    except Exception:
        log.exception("This worker can't start.")
        sys.exit(1)


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def ask_to_stop(**_: Any) -> None:
    """SIGTERM came: runners begin to save while Celery still closes its connections."""
    if service.supervisor is not None:  # from a thread: a signal handler must not wait for a lock
        threading.Thread(target=service.supervisor.stop).start()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def stop_service(**_: Any) -> None:
    """Celery is about to leave: wait for the runners."""
    service.stop()


def poll_embedded_broker_often() -> None:
    """kombu looks once a second into its SQLite file; it has no option that the transport would not pass on to SQLAlchemy."""
    from kombu.transport.sqlalchemy import Transport

    Transport.polling_interval = EMBEDDED_POLL_SECONDS


if not settings.broker_url:
    poll_embedded_broker_often()


def main() -> None:
    """Run the worker in the foreground until SIGTERM or SIGINT."""
    name = settings.worker_name or f"studio-{os.getpid()}"
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    # Root in a container is usual, and the danger that Celery means, pickled tasks, is refused by celery_config.
    warnings.filterwarnings("ignore", "You're running the worker with superuser privileges", SecurityWarning)
    app.worker_main(
        ["--quiet", "worker", "--pool=solo", f"--loglevel={settings.log_level.upper()}", f"--hostname={name}@%h", *quiet]
    )


if __name__ == "__main__":
    main()
