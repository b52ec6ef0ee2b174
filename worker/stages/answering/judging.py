"""What judges say of answers: reward models, loaded one after the other, language models at endpoints, and rules."""

import time
from collections.abc import Callable, Sequence

from app.domain.answering.job import AnswersSpec, JudgeJob
from app.domain.answering.judge import DECIMALS, JudgementFacts, LlmJudge, RewardJudge, describe_scores, score_text
from app.domain.answering.prompt_set import Prompt
from app.domain.errors import InvalidInput
from app.domain.events import JudgementKept
from worker.stages.answering.kept import AnswerParts, Row, Scorer
from worker.stages.answering.verdicts import LanguageModelJudge, describe_lines
from worker.stages.job import JobContext


def judge_answers(
    attempt: JobContext, spec: AnswersSpec, parts: AnswerParts, job: JudgeJob, progress: Callable[[int], None]
) -> None:
    """Ask one judge about the answers that it has not judged yet, and tell what it says of all."""
    started = time.monotonic()
    missing = parts.list_unscored(job.key)
    progress(len(parts.prompts) - len(missing))
    sha256, verdicts = None, None
    if isinstance(job.judge, LlmJudge):
        score_by_words(attempt, spec, parts, job, missing, progress)
        verdicts = describe_lines(parts.read_score_lines(job.key), is_pair=job.judge.against is not None)
    else:
        score, sha256 = _open_judge(attempt, spec, job)
        for number in missing:
            rows = parts.read(number)
            scores = score(parts.prompts[number], rows)
            told = zip(rows, scores, strict=True)
            parts.write_scores(job.key, number, ({"index": r["index"], "draw": r["draw"], "score": _keep(s)} for r, s in told))
            progress(1)
    num_scored, num_prompts, mean, se = describe_scores(parts.read_scores(job.key))
    facts = JudgementFacts(
        num_scored=num_scored, num_prompts=num_prompts, mean=mean, se=se, seconds=time.monotonic() - started, model_sha256=sha256,
        verdicts=verdicts,
    )  # fmt: skip
    attempt.emit(JudgementKept(key=job.key, judgement=facts))


def score_by_words(
    attempt: JobContext, spec: AnswersSpec, parts: AnswerParts, job: JudgeJob, missing: Sequence[int],
    progress: Callable[[int], None],
) -> None:  # fmt: skip
    """Have a language model judge the missing parts."""
    if not missing:
        return
    judge = LanguageModelJudge(attempt, spec, job)
    try:
        for number in missing:
            parts.write_scores(job.key, number, judge.score(parts.prompts[number], parts.read(number)))
            progress(1)
    finally:
        judge.close()


def _open_judge(attempt: JobContext, spec: AnswersSpec, job: JudgeJob) -> tuple[Scorer, str | None]:
    judge = job.judge
    assert not isinstance(judge, LlmJudge)
    if isinstance(judge, RewardJudge):
        if job.model is None:
            raise InvalidInput.at("judges", "A reward model judges, but the attempt's spec does not say where it is.")
        from worker.stages.answering.rewarding import open_reward

        return open_reward(attempt, spec, job.model)

    def score(prompts: Sequence[Prompt], rows: list[Row]) -> list[float | None]:
        references = {prompt.index: prompt.reference for prompt in prompts}
        return [score_text(judge, row["text"], references[row["index"]]) for row in rows]

    return score, None


def _keep(score: float | None) -> float | None:
    return None if score is None else round(score, DECIMALS)
