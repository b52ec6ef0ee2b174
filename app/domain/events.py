"""What a run reports, as past facts. One class per kind; the kind is also the name of the page's fragment.

The runner appends each event as one JSON line to `events.jsonl` (the spool):
    {"n": 17, "at": "2026-01-31T12:00:00.000000Z", "kind": "step", "payload": {...}}
`n` counts from 1 within an attempt, without gaps. The supervisor copies the spool into the journal, where each event
gets the run's own dense `seq`. Numbers are finite or null: JSON has no NaN, so it is cleaned here, at the door.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from app.domain.answering.answers import AnswersFacts
from app.domain.answering.judge import JudgementFacts
from app.domain.run import Outcome, RunState, Stage
from app.domain.scoring import ScoringFacts


def finite(value: Any) -> Any:
    """NaN and infinities become None; everything else passes."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


Number = Annotated[float | None, BeforeValidator(finite)]


class Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StateChanged(Event):
    """Written by the services, never by the runner."""

    kind: Literal["state"] = "state"
    state: RunState
    attempt: int
    reason: str = ""
    remedy: str = ""
    worker: str = ""


class AttemptResumed(Event):
    """A new attempt goes on after `step` from `checkpoint` ("" and 0: from the start). Later metrics are replaced."""

    kind: Literal["resume"] = "resume"
    attempt: int
    step: int
    checkpoint: str = ""


class StageStarted(Event):
    kind: Literal["stage"] = "stage"
    stage: Stage
    total: int | None = None
    unit: str = ""


class ProgressMade(Event):
    kind: Literal["progress"] = "progress"
    stage: Stage
    done: int
    total: int


class StepLogged(Event):
    """One optimizer step. `metrics` keys are in the catalogue; `batch` is the batch's index in the run's batch plan."""

    kind: Literal["step"] = "step"
    step: int
    num_steps: int
    epoch: float
    batch: int
    metrics: dict[str, Number]
    histogram: list[int]
    seconds_left: Number = None


class EvaluationLogged(Event):
    kind: Literal["evaluation"] = "evaluation"
    step: int
    metrics: dict[str, Number]


MOST_JUDGED = 2000


class PromptJudged(Event):
    """What the final answers to one test prompt came to: two runs are compared by those of the same example."""

    example_id: int
    policy_reward: float
    reference_reward: float
    policy_length: int  # tokens
    reference_length: int


class FinalLogged(Event):
    """The final figures of the trained policy, on the test set that nothing read before: keys `test/…`.

    `prompts`: the judged ones, as many as an event holds (MOST_JUDGED).
    """

    kind: Literal["final"] = "final"
    step: int
    metrics: dict[str, Number]
    prompts: list[PromptJudged] = []


class ModelKept(Event):
    """Which model the run leaves, where that is not simply the last step's of all: `text` says which, and why training ended.

    `last_step` is the step that training ended after; `stopped` is why, where it was to go on to `num_steps`.
    """

    kind: Literal["kept"] = "kept"
    step: int
    last_step: int
    num_steps: int
    text: str
    stopped: str = ""


class ChatMessage(Event):
    role: str
    content: str


class SampleDrawn(Event):
    """One validation prompt answered by the reference and by the policy at `step`; rewards None without a judge.

    The file samples.jsonl holds more of every prompt: docs/method.md.
    """

    kind: Literal["sample"] = "sample"
    step: int
    index: int
    example_id: int
    prompt: list[ChatMessage]
    reference: str
    policy: str
    reference_reward: Number = None
    policy_reward: Number = None


class PromptRecited(Event):
    """A prompt of the training data with the response that was learned, its weight where it has one that stays, and the
    policy's likeliest answer.
    """

    example_id: int
    prompt: list[ChatMessage]
    learned: str
    answer: str
    weight: Number = None

    @property
    def is_same(self) -> bool:
        return self.answer == self.learned


class RecitalHeld(Event):
    """What the trained policy says to prompts that it was trained on (evaluation.recite); nothing is judged by it."""

    kind: Literal["recital"] = "recital"
    step: int
    prompts: list[PromptRecited]


class Change(Event):
    """Another value of a recipe's setting, by its dotted path."""

    field: str
    value: Any


class FindingRaised(Event):
    """A named signature of degenerate weights or data: rule → evidence → remedy (app.domain.findings).

    `changes`: what the remedy would make of the run's recipe, all of it at once; empty where it names no value.
    """

    kind: Literal["finding"] = "finding"
    name: str
    severity: Literal["info", "warning", "error"]
    title: str
    evidence: str
    remedy: str
    step: int | None = None
    changes: tuple[Change, ...] = ()


class LogWritten(Event):
    kind: Literal["log"] = "log"
    level: Literal["info", "warning", "error"]
    text: str


class CheckpointSaved(Event):
    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    name: str
    size_bytes: int


class ArtifactWritten(Event):
    """A file of the run's artifacts folder that a user may download; `name` is its path inside that folder."""

    kind: Literal["artifact"] = "artifact"
    name: str
    title: str
    size_bytes: int
    sha256: str


class ScoringKept(Event):
    """The scores of the run's batches are whole: what they are, and whether they came from the cache."""

    kind: Literal["scoring"] = "scoring"
    scoring: ScoringFacts


class AnswersKept(Event):
    """All answers to the prompts are there."""

    kind: Literal["answers"] = "answers"
    answers: AnswersFacts


class JudgementKept(Event):
    """All answers are judged by the judge of this key."""

    kind: Literal["judgement"] = "judgement"
    key: str
    judgement: JudgementFacts


class MemoryPlanned(Event):
    """The peak memory expected of training, by formula and by one calibrated step, and the actual peak once it is known."""

    kind: Literal["memory"] = "memory"
    parts: dict[str, int]  # bytes by formula: weights, gradients, optimizer, activations, head
    predicted_bytes: int
    calibrated_bytes: int | None = None
    actual_bytes: int | None = None
    limit_bytes: int | None = None  # what the device has


class OutcomeReached(Event):
    """The runner's last word. The supervisor turns it into a `state` event; `summary` goes to the run's row."""

    kind: Literal["outcome"] = "outcome"
    outcome: Outcome
    reason: str = ""
    remedy: str = ""
    retry: bool = True
    summary: dict[str, Number] = {}


EVENT_KINDS: dict[str, type[Event]] = {
    event.model_fields["kind"].default: event
    for event in (
        StateChanged, AttemptResumed, StageStarted, ProgressMade, StepLogged, EvaluationLogged, FinalLogged, ModelKept,
        RecitalHeld, SampleDrawn, FindingRaised, LogWritten, CheckpointSaved, ArtifactWritten, ScoringKept, AnswersKept,
        JudgementKept, MemoryPlanned, OutcomeReached,
    )
}  # fmt: skip


class SpoolLine(BaseModel):
    """One line of `events.jsonl`."""

    n: int
    at: str
    kind: str
    payload: dict[str, Any]
