"""The one Celery task: a hint that a run, a preview or a chat may wait. It wakes the threads of this process and is done."""

import threading

from celery import shared_task

from app.services import previews
from app.services.answering import chats
from app.store.signals.hints import WAKE_TASK

hinted = threading.Event()
previews_hinted = threading.Event()
chats_hinted = threading.Event()


@shared_task(name=WAKE_TASK, ignore_result=True, acks_late=False)  # type: ignore[untyped-decorator]
def wake(what: str) -> None:
    """Have the supervisor, or the thread for previews or chats, look at the database now; which one it was doesn't matter."""
    beside = {previews.WARM_UP: previews_hinted, chats.WARM_UP: chats_hinted}
    next((event for word, event in beside.items() if what.startswith(word)), hinted).set()
