"""The course of a run's evaluations: what the reference says once, each one on the validation set, the last on the test set.

The reference's answers to the validation prompts are made before the first step, when policy and reference are the same weights.
The test set is read when training is over, and never before: neither a curve nor a choice of checkpoint or λ may rest on it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from app.domain.events import MOST_JUDGED, EvaluationLogged, FinalLogged, PromptJudged
from app.domain.findings import find_unfinished_answers, raise_finding
from app.domain.recipe import Method
from app.domain.run import Stage
from app.domain.scoring import describe_foreign
from app.domain.statistics.resolution import find_small_held_out
from worker.models.adapter import LanguageModel
from worker.models.generate import Sampling
from worker.stages.attempt import AttemptContext
from worker.stages.evaluation.answers import DrawnAnswers, answer, judge, plain_sampling, plan_sampling
from worker.stages.evaluation.figures import Figures, figure_examples, figure_prompts
from worker.stages.evaluation.likelihoods import DrawLikelihoods, Pair, measure_draws, measure_responses, measure_tokens
from worker.stages.evaluation.records import (
    RESPONSES,
    SAMPLES,
    AnswerRecord,
    DrawRecord,
    ExampleRecord,
    PromptRecord,
    append_rows,
)
from worker.stages.examples import Encoded
from worker.stages.held_out import EvaluationSet, choose_sets, divide
from worker.stages.prepare import Ground
from worker.stages.scoring.origins import compare_held_out
from worker.stages.scoring.sources import ReferenceSource


@dataclass(frozen=True)
class ReferenceSays:
    """What the reference makes of a set: its answers, log π_ref of their tokens, and of the held-out responses."""

    example_ids: list[int]
    answers: DrawnAnswers
    tokens: list[list[float]]
    responses: list[list[float]]


@dataclass(frozen=True)
class HeldOut:
    """What stays the same over all evaluations of a run. `reference` is of the validation set."""

    validation: EvaluationSet
    test: EvaluationSet
    ground: Ground
    sampling: Sampling
    reference: ReferenceSays


def set_up(attempt: AttemptContext, model: LanguageModel, ground: Ground) -> HeldOut:
    """Choose the sets and ask the reference (the untrained `model`) about validation, or take what an earlier attempt kept."""
    sets = choose_sets(ground.prepared.held_out, attempt.recipe.evaluation)
    tell_held_out(attempt, ground)
    validation, sampling = sets["validation"], plan_sampling(attempt, model, ground)
    path = attempt.checkpoints_dir / "reference.json"
    reference = _read(path, validation)
    if reference is None:
        asked = _ask(attempt, model, ground, validation, sampling)
        (answers,) = judge(attempt, ground, validation.prompts, asked.answers)
        reference = ReferenceSays(asked.example_ids, answers, asked.tokens, asked.responses)
        attempt.write_file(path, json.dumps(asdict(reference)).encode())
    if attempt.recipe.method is Method.VAR and attempt.recipe.online.every is None and sampling == plain_sampling(sampling):
        tell_origin(attempt, validation, reference)
    return HeldOut(validation, sets["test"], ground, sampling, reference)


def tell_origin(attempt: AttemptContext, asked: EvaluationSet, says: ReferenceSays) -> None:
    """Say that the data were written by another policy, where the reference's own answers to held-out prompts show it."""
    found = compare_held_out(asked.prompts, says.tokens, asked.examples, says.responses)
    evidence = describe_foreign(found.data, found.draws, found.gap, found.error) if found is not None else None
    if evidence:
        attempt.raise_findings([raise_finding("foreign_data", evidence)])


def tell_held_out(attempt: AttemptContext, ground: Ground) -> None:
    """Write down which examples are held out, by the set that they are in: prompt sets are made of them."""
    parts = zip(("validation", "test"), divide(ground.prepared.held_out, attempt.recipe.evaluation), strict=True)
    told = {name: [example.example_id for example in examples] for name, examples in parts}
    if any(told.values()):
        attempt.write_artifact("held_out.json", "Which examples were held out", json.dumps(told).encode())


def evaluate(attempt: AttemptContext, held_out: HeldOut, model: LanguageModel, step: int) -> dict[str, float | None]:
    """Evaluate the policy on the validation set and report it: samples, then metrics (keys `eval/…`).

    Training's random state is untouched.
    """
    asked = held_out.validation
    attempt.start_stage(Stage.EVALUATE, total=len(asked.prompts), unit="prompts")
    prompts, examples = _measure(attempt, model, held_out, asked, step)
    figures = _report(attempt, asked, step, prompts, examples)
    if step > 0:
        for index, record in enumerate(prompts[: attempt.recipe.evaluation.num_samples_shown]):
            attempt.emit(record.to_event(step, index))
        num_unfinished = sum(not record.policy.finished for record in prompts)
        if evidence := find_unfinished_answers(num_unfinished, len(prompts)):
            attempt.raise_findings([raise_finding("unfinished_answers", evidence, step)])
    evaluation = EvaluationLogged.model_validate({"step": step, "metrics": figures})
    attempt.emit(evaluation)
    return evaluation.metrics


def finish(attempt: AttemptContext, held_out: HeldOut, model: LanguageModel, step: int) -> dict[str, float | None]:
    """Judge the finished policy on the test set, which nothing has read so far, and report the final figures (keys `test/…`)."""
    asked = held_out.test
    attempt.start_stage(Stage.EVALUATE, total=len(asked.prompts), unit="test prompts")
    prompts, examples = _measure(attempt, model, held_out, asked, step)
    judged = [found for record in prompts[:MOST_JUDGED] if (found := record.to_judged()) is not None]
    return report_final(attempt, _report(attempt, asked, step, prompts, examples), step, judged)


def report_final(
    attempt: AttemptContext, figures: Figures, step: int, judged: Sequence[PromptJudged] = ()
) -> dict[str, float | None]:
    """Report figures of the test set, and say where they can't show much."""
    if evidence := find_small_held_out(figures):
        attempt.raise_findings([raise_finding("small_held_out", evidence, step)])
    final = FinalLogged.model_validate({"step": step, "metrics": figures, "prompts": list(judged)})
    attempt.emit(final)
    return final.metrics


def _measure(
    attempt: AttemptContext, model: LanguageModel, held_out: HeldOut, asked: EvaluationSet, step: int
) -> tuple[list[PromptRecord], list[ExampleRecord]]:
    """Let the policy answer the set's prompts, and put it beside the reference; what judges is loaded when that is gone.

    Before the first step the policy is the reference, so that nothing is asked twice.
    """
    check, ground = attempt.stop.check, held_out.ground
    if step == 0:
        says = held_out.reference
        same = [DrawLikelihoods(tokens, tokens, [0.0] * len(tokens)) for tokens in says.tokens]
        beside = _Beside(says, _Answered(says.answers, says.tokens, says.tokens), says.tokens, says.answers, same)
        return _record_prompts(asked, beside, says.answers, says.answers), _record_examples(asked, says.responses, says)
    responses = measure_responses(model, asked.examples, check)
    own = answer(attempt, model, ground, asked.prompts, held_out.sampling)
    beside = _stand_beside(attempt, model, held_out, asked, own)
    unjudged = [own] if asked is held_out.validation else [own, beside.says.answers]
    ours, *theirs = judge(attempt, ground, asked.prompts, *unjudged)
    return (
        _record_prompts(asked, beside, ours, theirs[0] if theirs else beside.says.answers),
        _record_examples(asked, responses, beside.says),
    )


@dataclass(frozen=True)
class _Answered:
    """Answers with the log-probabilities of their tokens under both models."""

    answers: DrawnAnswers
    policy: list[list[float]]
    reference: list[list[float]]


@dataclass(frozen=True)
class _Beside:
    """Policy and reference on one set: the policy's answers, log π_θ of the reference's, and the policy's own draws."""

    says: ReferenceSays
    own: _Answered
    theirs: list[list[float]]
    drawn: DrawnAnswers
    draws: list[DrawLikelihoods]


def _stand_beside(
    attempt: AttemptContext, model: LanguageModel, held_out: HeldOut, asked: EvaluationSet, own: DrawnAnswers
) -> _Beside:
    """Ask both models about each other's answers, with the reference beside the policy for as long as that takes."""
    check, prompts = attempt.stop.check, asked.prompts
    sampling = plain_sampling(held_out.sampling)
    drawn = own if sampling == held_out.sampling else answer(attempt, model, held_out.ground, prompts, sampling)
    says = held_out.reference if asked is held_out.validation else None
    with ReferenceSource(attempt, held_out.ground).beside(model) as as_reference:
        if says is None:
            with as_reference() as reference:
                says = _ask(attempt, reference, held_out.ground, asked, held_out.sampling)
        draws = measure_draws(model, as_reference, _pair(prompts, drawn), check)
        if drawn is own:
            answered = _Answered(own, [draw.policy for draw in draws], [draw.reference for draw in draws])
        else:
            ours = measure_tokens(model, _pair(prompts, own), check)
            with as_reference() as reference:
                answered = _Answered(own, ours, measure_tokens(reference, _pair(prompts, own), check))
    return _Beside(says, answered, measure_tokens(model, _pair(prompts, says.answers), check), drawn, draws)


def _ask(
    attempt: AttemptContext, reference: LanguageModel, ground: Ground, asked: EvaluationSet, sampling: Sampling
) -> ReferenceSays:
    """Let the reference answer the set's prompts, and look at the held-out responses; nothing judges yet."""
    check = attempt.stop.check
    answers = answer(attempt, reference, ground, asked.prompts, sampling)
    tokens = measure_tokens(reference, _pair(asked.prompts, answers), check)
    ids = [example.example_id for example in (*asked.prompts, *asked.examples)]
    return ReferenceSays(ids, answers, tokens, measure_responses(reference, asked.examples, check))


def _record_prompts(asked: EvaluationSet, beside: _Beside, ours: DrawnAnswers, theirs: DrawnAnswers) -> list[PromptRecord]:
    policy = _record_answers(ours, beside.own.policy, beside.own.reference)
    reference = _record_answers(theirs, beside.theirs, beside.says.tokens)
    draws = map(DrawRecord, beside.drawn.ids, beside.drawn.finished, beside.draws)
    return [PromptRecord(*row) for row in zip(asked.prompts, reference, policy, draws, strict=True)]


def _record_answers(answers: DrawnAnswers, policy: Sequence[list[float]], reference: Sequence[list[float]]) -> list[AnswerRecord]:
    rewards: Sequence[float | None] = answers.rewards or [None] * len(answers.ids)
    columns = (answers.texts, answers.ids, answers.finished, rewards, policy, reference)
    return [AnswerRecord(*row) for row in zip(*columns, strict=True)]


def _record_examples(asked: EvaluationSet, responses: Sequence[list[float]], says: ReferenceSays) -> list[ExampleRecord]:
    return [ExampleRecord(*row) for row in zip(asked.examples, responses, says.responses, strict=True)]


def _pair(prompts: Sequence[Encoded], answers: DrawnAnswers) -> list[Pair]:
    return [(example.prompt_ids, ids) for example, ids in zip(prompts, answers.ids, strict=True)]


def _report(
    attempt: AttemptContext, asked: EvaluationSet, step: int, prompts: Sequence[PromptRecord], examples: Sequence[ExampleRecord]
) -> Figures:
    """Keep the records of an evaluation, and return its figures under the keys of the set."""
    head = {"step": step, "set": asked.name}
    if step > 0:
        append_rows(attempt, SAMPLES, head, ({"index": k, **record.to_row()} for k, record in enumerate(prompts)))
    append_rows(attempt, RESPONSES, head, (row for record in examples for row in record.to_rows()))
    figures = figure_prompts(prompts) | figure_examples(examples)
    return {f"{asked.prefix}/{key}": value for key, value in figures.items()}


def _read(path: Path, asked: EvaluationSet) -> ReferenceSays | None:
    """Return what an earlier attempt kept of the reference on this very set, or None."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        says = ReferenceSays(**{**kept, "answers": DrawnAnswers(**kept["answers"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return says if says.example_ids == [example.example_id for example in (*asked.prompts, *asked.examples)] else None
