"""The model that a run leaves: the best evaluation's is held beside the one in training, and takes its place at the end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

from app.domain.events import ModelKept
from app.domain.training.keeping import Selection, tell_kept
from worker.stages.training.progress import Training


def weigh_up(training: Training, metrics: Mapping[str, float | None]) -> None:
    """Let an evaluation decide whether its model is the best so far, and whether training goes on."""
    attempt, progress = training.attempt, training.progress
    if not attempt.recipe.keep.is_asked:
        return
    is_best = progress.standing.take(metrics, progress.step, attempt.recipe.keep, attempt.recipe.method)
    if not attempt.ranks.is_alone:  # the lead alone has figures
        is_best, told = attempt.ranks.tell([is_best, asdict(progress.standing)])
        progress.standing = Selection(**told)
    if is_best and training.keeps_best:
        training.optimizer.keep()


@contextmanager
def kept_model(training: Training) -> Iterator[None]:
    """Provide the network as the run's model; afterwards it is the last step's again."""
    swaps = training.kept_step != training.progress.step
    if swaps:
        training.optimizer.swap()
    try:
        yield
    finally:
        if swaps:
            training.optimizer.swap()


def settle(training: Training) -> None:
    """Make the network the run's model, and say which that is."""
    attempt, progress = training.attempt, training.progress
    if training.kept_step != progress.step:
        training.optimizer.swap()
    text = tell_kept(progress.standing, attempt.recipe.keep, progress.step, training.num_steps)
    if text:
        attempt.emit(
            ModelKept(
                step=training.kept_step, last_step=progress.step, num_steps=training.num_steps, text=text,
                stopped=progress.standing.stopped,
            )
        )  # fmt: skip
