"""From an exception to a sentence: why an attempt failed, what to change, and whether trying again makes sense."""

import errno

from app.domain.errors import StudioError, Unavailable
from app.domain.events import OutcomeReached
from app.domain.run import Outcome
from app.system.limits import find_data_limit

REMEDY_DISK_FULL = "Free some space, then resume the run: it goes on from its last checkpoint."


class Diverged(Exception):
    """The loss or its gradient was not finite, or exploded, several steps in a row."""


def explain(error: BaseException) -> OutcomeReached:
    """Return the outcome that a failed attempt reports."""
    reason, remedy, retry = _explain(error)
    return OutcomeReached(outcome=Outcome.FAILED, reason=reason, remedy=remedy, retry=retry)


def _explain(error: BaseException) -> tuple[str, str, bool]:
    smaller = (
        "Lower training.micro_batch_size, switch policy.gradient_checkpointing on, shorten tokens.max_prompt or "
        "tokens.max_response, or use LoRA or bfloat16."
    )
    if isinstance(error, StudioError):
        return error.detail, remedy_of(error), False
    if isinstance(error, Diverged):
        return str(error), "Lower training.learning_rate, raise training.warmup_share, or raise lambda.", False
    if type(error).__name__ == "OutOfMemoryError":  # torch.OutOfMemoryError; torch may not even be imported yet
        return "The GPU ran out of memory.", smaller, False
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return _tell_memory(), smaller, False
    if is_disk_full(error):
        where = f" while writing {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return f"The disk is full{where}.", REMEDY_DISK_FULL, False
    if "CUDA" in str(error) or "CUBLAS" in str(error) or "device-side assert" in str(error):
        return f"The GPU reported an error: {_short(error)}", "If it happens again, look at the driver and the log.", True
    return f"Unexpected error, {type(error).__name__}: {_short(error)}", "The log has the details.", True


def _tell_memory() -> str:
    limit = find_data_limit()
    if limit is None:
        return "The machine ran out of memory."
    allowed = f"{limit / 2**30:.1f} GiB of memory that STUDIO_RUNNER_MEMORY_BYTES allows"
    return f"The run needs more than the {allowed} each of its processes."


def is_disk_full(error: BaseException) -> bool:
    """Return whether it says that a disk or a quota has no room left."""
    told = error.__cause__ if isinstance(error, Unavailable) else error
    return isinstance(told, OSError) and told.errno in (errno.ENOSPC, errno.EDQUOT)


def remedy_of(error: StudioError) -> str:
    """Return which settings of the recipe to change, where the error names them and its sentence doesn't say to set them."""
    named = dict.fromkeys(problem["field"] for problem in error.problems if problem.get("field"))
    fields = [field for field in named if f"set {field}" not in error.detail]
    return f"Change {' and '.join(fields)} in the recipe, then launch it again." if fields else ""


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if len(text) > 500:
        return text[:500] + "…"
    return text if text.endswith((".", "!", "?")) else text + "."
