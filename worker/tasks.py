"""The one Celery task: a hint that a run or a preview may wait. It wakes the threads of this process and is done."""

import threading

from celery import shared_task

from app.services.previews import WARM_UP
from app.store.signals.hints import WAKE_TASK

hinted = threading.Event()
previews_hinted = threading.Event()


@shared_task(name=WAKE_TASK, ignore_result=True, acks_late=False)  # type: ignore[untyped-decorator]
def wake(what: str) -> None:
    """Have the supervisor, or for a preview its previewer, look at the database now; which one it was doesn't matter."""
    (previews_hinted if what.startswith(WARM_UP) else hinted).set()
