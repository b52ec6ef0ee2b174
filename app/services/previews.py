"""What can be done with previews: ask, and on the worker's side begin, renew and finish. Nothing here commits.

The row is the queue entry and then the kept answer. Paths are not in it: each worker knows its own.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, InvalidInput, NotFound
from app.domain.preview.readings import AnyReading, ReadingJob
from app.domain.preview.weights import DrawnScores, PreviewJob, PreviewRequest, PreviewResult
from app.domain.problems import parse
from app.domain.recipe import describe_idle_flips
from app.domain.scoring import ScoringFacts
from app.domain.weighting import PRESETS, WeightSettings
from app.services import readings
from app.services.scorings import standing_of
from app.store import previews as store
from app.store.database import now
from app.store.datasets import examples_path
from app.store.files.files import Files
from app.store.scorings import get_scoring
from app.store.tables import Preview, Run, Scoring
from app.system.identifiers import new_id

KEEP_ANSWERS = 60  # of one scoring
WARM_UP = "preview"  # the hint's word when no preview waits yet; the ids of previews begin with it too
GONE = NotFound("").code
OVERRIDABLE = frozenset(name for settings in PRESETS.values() for name in settings)


@dataclass(frozen=True)
class PreviewClaim:
    """A preview in the hands of a worker."""

    preview_id: str
    job: PreviewJob | ReadingJob


def ask(session: Session, user_id: str, scoring_id: str, request: PreviewRequest) -> Preview:
    """Return the preview of this request: the kept answer, or a place in the workers' queue. One that failed is computed anew.

    Raises InvalidInput naming an override that isn't one, or noise that would change nothing; Conflict while the scoring
    isn't ready; TooManyRequests when too many that the user asked for wait.
    """
    scoring = get_scoring(session, user_id, scoring_id)
    job, digest = _describe_job(session, scoring, check_overrides(request))
    at = scoring.used_at = now(session)
    return store.queue(session, Preview(
        id=new_id("preview"), scoring_id=scoring_id, asker_id=user_id, digest=digest, job=job, state=store.WAITING, created_at=at,
    ), KEEP_ANSWERS)  # fmt: skip


def find_answer(session: Session, user_id: str, scoring_id: str, request: PreviewRequest) -> PreviewResult | None:
    """Return the kept answer to this request, without asking for one. Raises as `ask`."""
    scoring = get_scoring(session, user_id, scoring_id)
    _, digest = _describe_job(session, scoring, check_overrides(request))
    preview = store.find(session, scoring_id, digest)
    return PreviewResult.model_validate(preview.result) if preview is not None and preview.state == store.DONE else None


def expect(session: Session) -> None:
    """Somebody is about to ask for a preview: hint a worker to have its previewing process warm."""
    session.info["hints"].send(WARM_UP)


def check_overrides(request: PreviewRequest) -> PreviewRequest:
    """Return the request with its overrides as settings have them. Raises InvalidInput with the dotted field of each at fault."""
    unknown = [name for name in request.overrides if name not in OVERRIDABLE]
    if unknown:
        choices = ", ".join(sorted(OVERRIDABLE))
        raise InvalidInput.at(
            f"weights.{unknown[0]}", f"weights.{unknown[0]} is nothing that a preview can change; it can change {choices}."
        )
    try:
        settings = parse(WeightSettings, {"lambda": 1.0, **request.overrides}, InvalidInput)
    except InvalidInput as error:
        problems = [{**problem, "field": f"weights.{problem['field']}"} for problem in error.problems]
        raise InvalidInput(f"weights.{error.detail}", problems=problems) from None
    return request.model_copy(update={"overrides": {name: getattr(settings, name) for name in sorted(request.overrides)}})


def begin(session: Session, files: Files, worker_id: str, lease_seconds: float) -> PreviewClaim | None:
    """Claim the preview that is next; None when none waits."""
    at = now(session)
    statement = (
        update(Preview)
        .where(Preview.id == store.first_in_line(at).scalar_subquery(), store.is_claimable(at))
        .values(state=store.COMPUTING, worker_id=worker_id, lease_expires_at=at + timedelta(seconds=lease_seconds))
        .returning(Preview.id)
    )
    preview_id = session.execute(statement.execution_options(synchronize_session=False)).scalar_one_or_none()
    if preview_id is None:
        return None
    preview = session.get_one(Preview, preview_id)
    return PreviewClaim(preview.id, build_job(session, files, preview))


def build_job(session: Session, files: Files, preview: Preview) -> PreviewJob | ReadingJob:
    """Return the job with the paths of this machine."""
    if preview.model_id is not None:
        return readings.build_job(session, files, preview)
    scoring = session.get_one(Scoring, preview.scoring_id)
    paths = {"scorings_dir": str(files.scorings_dir), "dataset_path": str(examples_path(files, scoring.dataset_id))}
    return PreviewJob.model_validate({**preview.job, **paths})


def renew(session: Session, preview_id: str, worker_id: str, lease_seconds: float) -> bool:
    """Hold a preview for another lease; False when it is in other hands or gone."""
    return _write(session, preview_id, worker_id, lease_expires_at=now(session) + timedelta(seconds=lease_seconds))


def finish(session: Session, preview_id: str, worker_id: str, result: PreviewResult | AnyReading) -> bool:
    """Keep the answer; False when the preview is in other hands or gone."""
    kept = {"state": store.DONE, "result": result.model_dump(mode="json", by_alias=True), "error": None}
    return _write(session, preview_id, worker_id, **kept, finished_at=now(session), lease_expires_at=None)


def fail(session: Session, preview_id: str, worker_id: str, error: dict[str, Any]) -> bool:
    """Keep why there is no answer: {"code", "detail", "problems"}; False when the preview is in other hands or gone.

    Scores that are found to be gone from the disk are forgotten, so that asking for the scoring makes them again.
    """
    kept = {"state": store.FAILED, "result": None, "error": error}
    is_mine = _write(session, preview_id, worker_id, **kept, finished_at=now(session), lease_expires_at=None)
    if is_mine and error.get("code") == GONE:
        preview = session.get_one(Preview, preview_id, populate_existing=True)
        if preview.scoring_id is not None:
            session.get_one(Scoring, preview.scoring_id).facts = None
    return is_mine


def give_back(session: Session, preview_id: str, worker_id: str) -> bool:
    """Leave a preview to other workers; False when it is in other hands or gone already."""
    return _write(session, preview_id, worker_id, state=store.WAITING, lease_expires_at=None)


def _write(session: Session, preview_id: str, worker_id: str, **values: Any) -> bool:
    mine = (Preview.id == preview_id, Preview.worker_id == worker_id, Preview.state == store.COMPUTING)
    statement = update(Preview).where(*mine).values(**values).returning(Preview.id)
    return session.execute(statement.execution_options(synchronize_session=False)).scalar_one_or_none() is not None


def _describe_job(session: Session, scoring: Scoring, request: PreviewRequest) -> tuple[dict[str, Any], str]:
    """Return a PreviewJob as plain data, but for the paths, and its digest."""
    if scoring.facts is None:
        standing = standing_of(scoring, session.get(Run, scoring.run_id) if scoring.run_id else None)
        why = {
            "queued": "waits for a worker: preview it when it is made.",
            "paused": "waits for its release: preview it when it is made.",
            "running": "is being made: preview it when it is whole.",
        }.get(standing.state, f"has not been made. {standing.reason} {standing.remedy}".strip())
        raise Conflict(f"The scoring “{scoring.name}” {why}")
    facts = ScoringFacts.model_validate(scoring.facts)
    source = scoring.settings["reward"]["source"]
    _refuse_idle_flips(request, source)
    job = {
        "index_key": facts.index_key,
        "logprob_key": facts.logprob.key,
        "reward_key": facts.reward.key if facts.reward else None,
        "reward_source": source,
        "batch_size": facts.batch_size,
        "request": request.to_dict(),
    }
    if facts.check.ensemble is not None:
        job["ensemble"] = facts.check.ensemble.model_dump(mode="json")
    if facts.draws is not None:
        job["drawn"] = {name: getattr(facts.draws, name) for name in DrawnScores.model_fields}
    return job, hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


def _refuse_idle_flips(request: PreviewRequest, source: str) -> None:
    idle = describe_idle_flips(source, "reward_std")
    if idle and request.label_flip_share and request.overrides.get("responses") != "chosen":
        raise InvalidInput.at("label_flip_share", idle)
