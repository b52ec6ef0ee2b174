"""Prompt sets and answers as tests need them: made by the services, with files as a worker leaves them."""

import json
from typing import Any

from sqlalchemy.orm import Session

from app.domain.answering.answers import AnswersFacts, AnswersRequest
from app.domain.answering.judge import JudgementFacts
from app.domain.answering.layout import name_part
from app.domain.answering.prompt_set import PromptSetRequest
from app.domain.events import AnswersKept, Event, JudgementKept, OutcomeReached, SpoolLine
from app.domain.run import Outcome
from app.services import attempts, recordings
from app.services.answering import answers, prompt_sets
from app.store import journal
from app.store.answering.answers import list_judgements
from app.store.database import Database
from app.store.files.files import Files
from app.store.tables import Answers, PromptSet

AT = "2026-01-31T12:00:00.000000Z"
QUESTIONS = "Why is the sky blue?\nWhat is rain?\nWho made the lamp?\nWhere is the map?"


def make_prompt_set(database: Database, files: Files, owner_id: str, text: str = QUESTIONS, name: str = "Questions") -> PromptSet:
    asked = PromptSetRequest(name=name, text=text)
    with database.reading() as session:
        gathered = prompt_sets.gather(session, files, owner_id, asked)
    with database.writing() as session:
        return prompt_sets.keep(session, files, owner_id, gathered)


def ask(database: Database, owner_id: str, prompt_set: str, model: Any, **changes: Any) -> Answers:
    body = {"prompt_set": prompt_set, "model": model, "n": 2, "sampling": {"max_new_tokens": 8}, **changes}
    with database.writing() as session:
        return answers.request(session, owner_id, AnswersRequest.model_validate(body))


def answer_all(database: Database, files: Files, answers_id: str, texts: dict[tuple[int, int], str] | None = None) -> str:
    """A worker takes the next run, writes answers and scores of every judge (the text's length), and ends; returns the run."""
    with database.writing() as session:
        claim = claim_run(session, answers_id)
        attempts.open_spool(session, claim)
        row = session.get_one(Answers, answers_id)
        keys = [one.key for one in list_judgements(session, [answers_id]) if one.facts is None]
        num = session.get_one(PromptSet, row.prompt_set_id).num_prompts
    said = texts or {(index, draw): "yes " * (index + 2 * draw + 1) for index in range(num) for draw in range(row.num_draws)}
    lines = [
        {"index": i, "prompt_id": str(i), "draw": d, "text": text, "finished": True, "num_tokens": 3, "logprob": -1.5}
        for (i, d), text in said.items()
    ]
    write(files.answers_dir(answers_id) / name_part(0), lines)
    told: list[Event] = [
        AnswersKept(
            answers=AnswersFacts(
                num_prompts=num,
                num_answers=len(lines),
                num_finished=len(lines),
                num_tokens=99,
                model_sha256=f"sha of {row.model_name}",
            )
        )
    ]
    for key in keys:
        scores = [{"index": line["index"], "draw": line["draw"], "score": float(len(line["text"]))} for line in lines]
        write(files.scores_dir(answers_id, key) / name_part(0), scores)
        told.append(JudgementKept(key=key, judgement=JudgementFacts(num_scored=len(lines), num_prompts=num, mean=1.5, se=0.5)))
    spooled = [
        SpoolLine(n=n, at=AT, kind=event.model_dump()["kind"], payload=journal.to_payload(event))
        for n, event in enumerate(told, 1)
    ]
    with database.writing() as session:
        recordings.record(session, claim.run_id, claim.token, spooled)
        attempts.finish(session, claim.run_id, claim.token, OutcomeReached(outcome=Outcome.SUCCEEDED))
    return claim.run_id


def claim_run(session: Session, answers_id: str) -> attempts.Claim:
    """The claim of the run that makes these answers; others that wait before it fail."""
    while claim := attempts.begin(session, "worker", 30):
        if claim.answers_id == answers_id:
            return claim
        attempts.finish(session, claim.run_id, claim.token, OutcomeReached(outcome=Outcome.FAILED, retry=False))
    raise AssertionError(f"no run makes {answers_id}")


def write(path: Any, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
