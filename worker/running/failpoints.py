"""Named points of a runner's work, where a test may end it, hold it, or let the disk refuse.

    reach("checkpoint.renamed")

Nobody listens but a test that replaces the runner's program by its own and calls `listen` there: no variable, file or setting
switches a point on, so in production a point is one comparison with None.
"""

from collections.abc import Callable

# In the order in which one step with a checkpoint reaches them.
STEP_POINTS = ("step.begun", "step.taken", "step.recorded")
CHECKPOINT_POINTS = (
    "checkpoint.begun", "checkpoint.tensors_written", "checkpoint.state_written", "checkpoint.manifest_written",
    "checkpoint.file_synced", "checkpoint.folder_synced", "checkpoint.renamed", "checkpoint.name_synced",
    "checkpoint.recorded", "checkpoint.removing", "checkpoint.swept",
)  # fmt: skip
SPOOL_POINTS = ("spool.writing", "spool.written")
ARTIFACT_POINTS = ("artifact.written", "artifact.placed")
POINTS = (*STEP_POINTS, *CHECKPOINT_POINTS, *SPOOL_POINTS, *ARTIFACT_POINTS)

_listener: Callable[[str], None] | None = None


def reach(point: str) -> None:
    """Say that the work has come to this point of POINTS; whatever the listener raises is raised here."""
    if _listener is not None:
        _listener(point)


def listen(listener: Callable[[str], None] | None) -> None:
    """Have every point told to `listener` from now on, or to nobody again. For tests."""
    global _listener
    _listener = listener
