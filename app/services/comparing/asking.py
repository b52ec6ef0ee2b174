"""A comparison from models instead of answers, and further judges of it: what is not there is asked for. Nothing here commits."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.domain.answering.answers import AnsweringModel, AnswersRequest, SamplingSettings
from app.domain.answering.judge import Judge, LlmJudge
from app.domain.errors import InvalidInput
from app.domain.problems import parse
from app.services.answering import answers as service
from app.services.comparing import comparisons
from app.store.answering.answers import get_answers
from app.store.sharing import get_visible, may_change
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


def judge(session: Session, user_id: str, comparison_id: str, judges: Sequence[Judge]) -> Comparison:
    """Have judges say what they think of all answers of a comparison that the user may change; none are made anew.

    Answers with which a judge is to compare the others are not compared with themselves.
    Raises NotFound; Forbidden where all of them are others'; InvalidInput with the field at fault.
    """
    comparison = get_visible(session, Comparison, user_id, comparison_id)
    found = [get_answers(session, user_id, key) for key in comparison.answers_ids]
    changeable = [one for one in found if may_change(session, user_id, one)] or found[:1]
    for answers in changeable:
        wanted = [one for one in judges if not (isinstance(one, LlmJudge) and one.against == answers.id)]
        if wanted:
            service.judge(session, user_id, answers.id, wanted)
    return comparison
