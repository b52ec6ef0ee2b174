"""A comparison from models instead of answers: what is not there yet is asked for. Nothing here commits."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.domain.answering.answers import AnsweringModel, AnswersRequest, SamplingSettings
from app.domain.answering.judge import Judge
from app.domain.errors import InvalidInput
from app.domain.problems import parse
from app.services.answering import answers as service
from app.services.comparing import comparisons
from app.store.answering.answers import get_answers
from app.store.sharing import may_change
from app.store.tables import Comparison


def ask(
    session: Session, owner_id: str, prompt_set_id: str, models: Sequence[AnsweringModel], *,
    answers_ids: Sequence[str] = (), sampling: SamplingSettings, num_draws: int = 1, judges: Sequence[Judge] = (),
    name: str = "", private: bool = False,
) -> Comparison:  # fmt: skip
    """Return a comparison of these answers and these models' answers to the prompt set; those that are there are not made anew.

    With `private` the comparison and what is made for it are the owner's. Answers of others are taken as they are judged already.
    Raises InvalidInput for what can't answer or can't be compared, NotFound for a prompt set that isn't there.
    """
    settings = {"prompt_set": prompt_set_id, "n": num_draws, "sampling": sampling, "judges": list(judges)}
    asked = [parse(AnswersRequest, {**settings, "model": model}, InvalidInput) for model in models]
    made = [service.request(session, owner_id, one, private=private).id for one in asked]
    for answers_id in answers_ids:
        if may_change(session, owner_id, get_answers(session, owner_id, answers_id)):
            service.judge(session, owner_id, answers_id, judges)
    return comparisons.create(session, owner_id, [*answers_ids, *made], name, private=private)
