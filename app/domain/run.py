"""The life of a run: its states, the moves between them, and its stages."""

from enum import StrEnum


class RunKind(StrEnum):
    """What a queued run asks of a worker."""

    TRAINING = "training"
    SCORING = "scoring"
    ANSWERS = "answers"


class RunState(StrEnum):
    """`paused` is told, never kept: a run that is queued and held."""

    QUEUED = "queued"
    PAUSED = "paused"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True when no attempt can change the run any more."""
        return self in FINAL_STATES


FINAL_STATES = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})

# `failed` and `cancelled` go back to `queued` only by a user's explicit resume.
MOVES: dict[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.CANCELLED}),
    RunState.RUNNING: frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED}),
    RunState.INTERRUPTED: frozenset({RunState.QUEUED, RunState.CANCELLED, RunState.FAILED}),
    RunState.SUCCEEDED: frozenset(),
    RunState.FAILED: frozenset({RunState.QUEUED}),
    RunState.CANCELLED: frozenset({RunState.QUEUED}),
}


def tell_state(state: str, *, is_held: bool) -> RunState:
    """Return what people are told of a run in this state."""
    kept = RunState(state)
    return RunState.PAUSED if is_held and kept is RunState.QUEUED else kept


def can_move(old: RunState, new: RunState) -> bool:
    """Return whether the life of a run allows the step from `old` to `new`."""
    return new in MOVES.get(old, frozenset())


class Stage(StrEnum):
    """What an attempt is at; STAGES says which of them a kind of run goes through."""

    PREPARE = "prepare"
    SCORE = "score"
    DRAW = "draw"
    TRAIN = "train"
    EVALUATE = "evaluate"
    ANSWER = "answer"
    JUDGE = "judge"


STAGES: dict[RunKind, tuple[Stage, ...]] = {
    RunKind.TRAINING: (Stage.PREPARE, Stage.SCORE, Stage.DRAW, Stage.TRAIN, Stage.EVALUATE),
    RunKind.SCORING: (Stage.PREPARE, Stage.SCORE, Stage.DRAW),
    RunKind.ANSWERS: (Stage.ANSWER, Stage.JUDGE),
}


class Outcome(StrEnum):
    """How an attempt ended, as the runner itself reports it in its last event."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


# Exit status of the runner process for each outcome; any other status is a crash.
EXIT_STATUS: dict[Outcome, int] = {
    Outcome.SUCCEEDED: 0,
    Outcome.FAILED: 10,
    Outcome.CANCELLED: 11,
    Outcome.INTERRUPTED: 12,
}


# The disk refused even the runner's last word, which is then told by this status alone.
UNWRITTEN_STATUS = 13


def describe_shortage(num_processes: int, most: int) -> str:
    """Return why no worker can run so many processes, when the largest has places for `most`."""
    return (
        f"The run wants {num_processes} devices to train together, but no worker has more than {most}: ask for fewer, or start "
        "a worker with more (a worker without GPUs has as many as STUDIO_WORKER_SLOTS says)."
    )
