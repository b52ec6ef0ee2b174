"""What one attempt is told that answers prompts: its `spec.json`, as app.domain.jobs has it for trainings and scorings."""

from pydantic import BaseModel, ConfigDict

from app.domain.answering.answers import SamplingSettings
from app.domain.answering.endpoint import EndpointSource
from app.domain.answering.judge import Judge
from app.domain.jobs import JobSpec, ModelSource, RunSpec
from app.domain.recipe import PolicySettings
from app.domain.run import RunKind


class CheckpointSource(BaseModel):
    """What a run had trained by one step, to be put into its base."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str  # the run's checkpoints
    step: int
    policy: PolicySettings


class OpponentSource(BaseModel):
    """Another model's answers to the same prompts, which a judge compares with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    num_draws: int
    max_new_tokens: int


class JudgeJob(BaseModel):
    """A judge to be asked: its key, which names the folder of its scores, and where its model is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    judge: Judge
    model: ModelSource | None = None
    endpoint: EndpointSource | None = None
    opponent: OpponentSource | None = None


class AnswersSpec(JobSpec):
    """A model answers the prompts of a set, as far as it has not yet, and judges say what they think of the answers."""

    kind: RunKind = RunKind.ANSWERS
    prompts_path: str
    answers_dir: str
    model: ModelSource | None  # None: an endpoint answers, or the answers were uploaded and are only to be judged
    endpoint: EndpointSource | None = None
    checkpoint: CheckpointSource | None = None
    num_draws: int
    sampling: SamplingSettings
    judges: tuple[JudgeJob, ...] = ()
    verdicts_dir: str = ""  # what language models have said as judges, by what they were asked

    @property
    def has_model_here(self) -> bool:
        """Whether weights are read: a model that answers is here, or a reward model judges. Else nothing needs torch."""
        return self.model is not None or any(job.model is not None for job in self.judges)

    def list_endpoints(self) -> list[EndpointSource]:
        """Return all endpoints that it asks, each once."""
        found = [self.endpoint, *(job.endpoint for job in self.judges)]
        return list({source.id: source for source in found if source is not None}.values())


def read_job(data: bytes) -> RunSpec | AnswersSpec:
    """Return what spec.json says. Raises ValidationError."""
    kind = KindOfJob.model_validate_json(data).kind
    return (AnswersSpec if kind is RunKind.ANSWERS else RunSpec).model_validate_json(data)


class KindOfJob(BaseModel):
    kind: RunKind = RunKind.TRAINING
