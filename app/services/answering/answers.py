"""Answers: asked for, judged, deleted when no comparison shows them. Nothing here commits."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from sqlalchemy.orm import Session

from app.domain.answering.answers import AnswersRequest, fingerprint, refuse_excess
from app.domain.answering.judge import (
    ExactJudge,
    LengthJudge,
    LlmJudge,
    PatternJudge,
    RewardJudge,
    judge_key,
    name_judge,
    needs_reference,
)
from app.domain.answering.prompt_set import PromptSetFacts
from app.domain.errors import Conflict, InvalidInput
from app.domain.run import RunState
from app.services import runs
from app.services.answering import makers
from app.services.answering.choices import Chosen, choose, choose_llm, find_judge, identify
from app.services.names import tell_apart
from app.services.sharing import describe_uses, take
from app.store.answering import answers as store
from app.store.answering.prompt_sets import get_prompt_set
from app.store.database import add_once, now
from app.store.files.files import Files
from app.store.signals.after_commit import after_commit
from app.store.tables import Answers, Comparison, Judgement, PromptSet, Run
from app.system.identifiers import new_id

NAME_LENGTH = 120
AnyJudge = RewardJudge | LlmJudge | LengthJudge | ExactJudge | PatternJudge


class IdentifiedJudge(NamedTuple):
    """A judge with the key by which it is the same one, whatever it judges."""

    judge: AnyJudge
    key: str
    name: str
    model_id: str | None


def request(session: Session, owner_id: str, asked: AnswersRequest, *, private: bool = False) -> Answers:
    """Return the answers that were asked for, made by a run of their own where they are not there yet.

    Asking again gives the same ones, private or not as they are, with the judges that were not asked before; answers whose run
    failed or was cancelled go on where it ended. Answers that another member shares are taken as they are,
    where all of these judges have judged them; with `private` only one's own. Raises InvalidInput with the field at fault,
    NotFound for a prompt set that isn't there.
    """
    prompt_set = get_prompt_set(session, owner_id, asked.prompt_set)
    chosen = choose(session, owner_id, asked.model)
    refuse_excess(prompt_set.num_prompts, asked.num_draws, asked.sampling.max_new_tokens)
    refuse_unwritten(prompt_set, chosen, asked.sampling.prompt_format)
    shared = None if private else _find_shared(session, owner_id, asked, prompt_set, chosen)
    if shared is not None:
        shared.used_at = now(session)
        return shared
    answers = _find_or_add(session, owner_id, asked, prompt_set, chosen, private=private)
    answers.used_at = now(session)
    add_judges(session, answers, prompt_set, asked.judges)
    makers.make(session, answers)
    return answers


def refuse_unwritten(prompt_set: PromptSet, chosen: Chosen, prompt_format: str) -> None:
    """Raise InvalidInput for prompts that only a chat template could write, to a model that has none."""
    if chosen.has_template or prompt_format == "plain":
        return
    several = PromptSetFacts.model_validate(prompt_set.facts).num_several_turns
    if several:
        raise InvalidInput.at(
            "model",
            f"{several} of the {prompt_set.num_prompts} prompts of “{prompt_set.name}” have several turns, and “{chosen.name}” "
            "has no chat template to write them: take another model or prompt set, or the prompt format “plain”.",
        )
    if prompt_format == "chat":
        raise InvalidInput.at(
            "sampling.prompt_format", f"“{chosen.name}” has no chat template: take another model, or the prompt format “plain”."
        )


def judge(session: Session, owner_id: str, answers_id: str, judges: Sequence[AnyJudge]) -> Answers:
    """Have more judges say what they think of answers, which are not made anew; what was said already stays.

    Raises NotFound; InvalidInput with the field at fault.
    """
    answers = take(session, owner_id, Answers, answers_id, "judged")
    add_judges(session, answers, session.get_one(PromptSet, answers.prompt_set_id), judges)
    makers.make(session, answers)
    return answers


def add_judges(session: Session, answers: Answers, prompt_set: PromptSet, judges: Sequence[AnyJudge]) -> None:
    """Note which judges are to be asked, each once. Raises InvalidInput for one that could say nothing."""
    known = {judgement.key for judgement in store.list_judgements(session, [answers.id])}
    for one in identify_judges(session, answers.owner_id, prompt_set, judges):
        if one.key in known:
            continue
        known.add(one.key)
        session.add(
            Judgement(
                id=new_id("judgement"), answers_id=answers.id, key=one.key, kind=one.judge.kind,
                judge=one.judge.model_dump(mode="json"), name=one.name, model_id=one.model_id, created_at=now(session),
            )
        )  # fmt: skip
    session.flush()


def identify_judges(session: Session, user_id: str, prompt_set: PromptSet, judges: Sequence[AnyJudge]) -> list[IdentifiedJudge]:
    """Return the judges by what tells them from others. Raises InvalidInput for one that the user can't ask, or that is mute."""
    found = []
    for place, asked in enumerate(judges):
        if needs_reference(asked) and not PromptSetFacts.model_validate(prompt_set.facts).num_references:
            raise InvalidInput.at(
                f"judges.{place}", f"No prompt of “{prompt_set.name}” has a reference answer, which an exact match needs."
            )
        model = find_judge(session, user_id, asked, f"judges.{place}.model") if isinstance(asked, RewardJudge) else None
        contents, name = (identify(model), model.name) if model else ((), "")
        if isinstance(asked, LlmJudge):
            contents, name = choose_llm(session, user_id, prompt_set.id, asked, f"judges.{place}")
        key = judge_key(asked, contents)
        found.append(IdentifiedJudge(asked, key, name_judge(asked, name), model.id if model else None))
    return found


def delete(session: Session, files: Files, owner_id: str, answers_id: str) -> None:
    """Remove answers with their scores, and the runs that made them. Raises NotFound; Conflict while a run is at them, or a
    comparison shows them.
    """
    answers = take(session, owner_id, Answers, answers_id, "deleted")
    uses = describe_uses(session, owner_id, Comparison, store.list_comparisons_with(session, answers))
    if uses.num:
        which = f"{uses.num} comparisons show" if uses.num > 1 else f"The comparison {uses.name} shows"
        raise uses.refuse(f"{which} these answers: delete {'them' if uses.num > 1 else 'it'} first.", "comparison")
    found = store.list_makers(session, answers_id)
    for run in found:
        if not RunState(run.state).final:
            raise Conflict.in_use(
                f"Run {run.id} is making or judging these answers: cancel it, or wait for its end, then delete them.",
                "run", [(run.id, run.name)],
            )  # fmt: skip
    for run in found:
        runs.delete(session, files, owner_id, run.id)
    session.flush()
    session.delete(answers)
    after_commit(session, ("remove", answers_id), partial(files.remove, files.answers_dir(answers_id)))


def standing_of(answers: Answers, maker: Run | None) -> str:
    """Return how far answers are: ready, or the state of the run that makes or judges them; missing when that was deleted."""
    if maker is not None and not RunState(maker.state).final:
        state = maker.told_state
        return "queued" if state is RunState.INTERRUPTED else state.value
    if answers.facts is not None:
        return "ready"
    return "missing" if maker is None or maker.state == RunState.SUCCEEDED else maker.state


def _find_shared(session: Session, user_id: str, asked: AnswersRequest, prompt_set: PromptSet, chosen: Chosen) -> Answers | None:
    """Return another member's answers to the question that are there, or are being made, and are judged as is asked for."""
    known_by = fingerprint(prompt_set.sha256, chosen.contents, asked.num_draws, asked.sampling)
    if store.find_by_fingerprint(session, user_id, known_by) is not None:
        return None
    wanted = {one.key for one in identify_judges(session, user_id, prompt_set, asked.judges)}
    found = store.describe_answers(session, store.list_shared(session, user_id, prompt_set.id, known_by))
    for row in found:
        is_coming = row.run is not None and not RunState(row.run.state).final
        done = {judgement.key for judgement in row.judgements if is_coming or judgement.facts is not None}
        if (is_coming or row.answers.facts is not None) and wanted <= done:
            return row.answers
    return None


def _find_or_add(
    session: Session, owner_id: str, asked: AnswersRequest, prompt_set: PromptSet, chosen: Chosen, *, private: bool
) -> Answers:
    known_by = fingerprint(prompt_set.sha256, chosen.contents, asked.num_draws, asked.sampling)
    known = store.find_by_fingerprint(session, owner_id, known_by)
    if known is not None:
        return known
    at = now(session)
    answers = Answers(
        id=new_id("answers"), owner_id=owner_id, private=private, fingerprint=known_by, prompt_set_id=prompt_set.id,
        name=asked.name or tell_apart(session, Answers, owner_id, f"{chosen.name} · {prompt_set.name}"[:NAME_LENGTH]),
        model=asked.model.model_dump(mode="json"), model_id=chosen.policy.id if chosen.policy else None,
        model_run_id=chosen.run_id, model_name=chosen.name, num_draws=asked.num_draws,
        sampling=asked.sampling.model_dump(mode="json"), created_at=at, used_at=at,
    )  # fmt: skip
    return add_once(session, answers, lambda: store.find_by_fingerprint(session, owner_id, known_by))
