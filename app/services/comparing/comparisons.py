"""What a user can do with comparisons: make, rename, delete. Nothing here commits."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.domain.errors import InvalidInput
from app.services.names import tell_apart
from app.services.sharing import take
from app.store.answering.answers import get_answers
from app.store.database import now
from app.store.files.files import Files
from app.store.signals.after_commit import after_commit
from app.store.tables import Answers, Comparison, PromptSet
from app.system.identifiers import new_id

FEWEST, MOST = 2, 8
NAME_LENGTH = 120


def create(session: Session, owner_id: str, answers_ids: Sequence[str], name: str = "", *, private: bool = False) -> Comparison:
    """Return a new comparison of these answers, which may still be in the making.

    Raises NotFound for answers of somebody else, InvalidInput for too few, for those of different prompt sets, and for one
    model asked twice in the same way.
    """
    found = [get_answers(session, owner_id, key) for key in dict.fromkeys(answers_ids)]
    refuse(session, found)
    stem = " and ".join(one.model_name for one in found) if len(found) == FEWEST else f"{len(found)} models"
    prompt_set = session.get_one(PromptSet, found[0].prompt_set_id)
    made = f"{stem} on {prompt_set.name}"[:NAME_LENGTH]
    comparison = Comparison(
        id=new_id("comparison"),
        owner_id=owner_id,
        private=private,
        name=name.strip()[:NAME_LENGTH] or tell_apart(session, Comparison, owner_id, made),
        prompt_set_id=prompt_set.id,
        answers_ids=[one.id for one in found],
        created_at=now(session),
    )
    session.add(comparison)
    session.flush()
    return comparison


def refuse(session: Session, found: Sequence[Answers]) -> None:
    """Raise InvalidInput for answers that can't be set side by side, with a sentence that says why."""
    if len(found) < FEWEST:
        raise InvalidInput.at("answers", "A comparison needs two answers or more, of different models: choose another one.")
    if len(found) > MOST:
        raise InvalidInput.at("answers", f"A comparison shows at most {MOST} models, and these are {len(found)}: leave some out.")
    other = next((one for one in found if one.prompt_set_id != found[0].prompt_set_id), None)
    if other is not None:
        first, second = (session.get_one(PromptSet, one.prompt_set_id).name for one in (found[0], other))
        raise InvalidInput.at(
            "answers",
            f"“{found[0].name}” answers the prompts of “{first}”, “{other.name}” those of “{second}”: "
            "only answers to the same prompt set can be compared.",
        )
    for place, one in enumerate(found):
        for earlier in found[:place]:
            if _is_repeated(earlier, one):
                raise InvalidInput.at(
                    "answers",
                    f"“{earlier.name}” and “{one.name}” are answers of the same model, by the hash of its weights, asked in the "
                    "same way: there is nothing to compare. Choose another model, or other sampling settings.",
                )


def delete(session: Session, files: Files, user_id: str, comparison_id: str) -> None:
    """Remove a comparison with its votes; the answers stay. Raises NotFound, Forbidden."""
    comparison = take(session, user_id, Comparison, comparison_id, "deleted")
    session.delete(comparison)
    folder = files.comparison_dir(comparison.id)
    after_commit(session, ("remove comparison", comparison.id), lambda: files.remove(folder))


def _is_repeated(one: Answers, other: Answers) -> bool:
    """Return whether the weights are the same and asked alike; the seed alone makes no other model."""
    hashes = [(answers.facts or {}).get("model_sha256") for answers in (one, other)]
    if not hashes[0] or hashes[0] != hashes[1]:
        return False
    first, second = ({**answers.sampling, "seed": 0} for answers in (one, other))
    return first == second
