"""The one Celery task: a hint that a run may wait. It wakes the supervisor of this process and is done."""

import threading

from celery import shared_task

from app.store.queue import WAKE_TASK

hinted = threading.Event()


@shared_task(name=WAKE_TASK, ignore_result=True, acks_late=False)  # type: ignore[untyped-decorator]
def wake(_run_id: str) -> None:
    """Have the supervisor look at the database now; which run it was doesn't matter."""
    hinted.set()
