"""The passes over the batch plan that a run's scores take, as one bar that never runs backwards."""

from collections.abc import Callable
from dataclasses import dataclass

from app.domain.run import Stage
from worker.stages.attempt import AttemptContext


@dataclass
class Passes:
    """`planned`: how many there will be; one whose scores are found is taken out. A further one, for what a bound uncovers, finds
    the bar at its end.
    """

    attempt: AttemptContext
    planned: int
    begun: int = 0
    reached: float = 0.0
    report: Callable[[int, int], None] | None = None

    def skip(self) -> None:
        """Take out a pass, as its scores were there."""
        self.planned = max(self.begun, self.planned - 1)

    def begin(self, num_batches: int) -> Callable[[int, int], None]:
        """Begin a pass; the result reports (done, total) of it."""
        self.begun += 1
        self.planned = max(1, self.planned)
        place = min(self.begun, self.planned) - 1
        if self.report is None:
            self.report = self.attempt.start_stage(Stage.SCORE, total=self.planned * num_batches, unit="batches")
        report, planned = self.report, self.planned

        def progress(done: int, total: int) -> None:
            self.reached = max(self.reached, (place + done / max(1, total)) / planned)
            report(round(self.reached * planned * total), planned * total)

        return progress
