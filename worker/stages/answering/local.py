"""A model that is here answers the missing parts of its answers."""

import gc

from app.domain.answering.job import AnswersSpec
from app.domain.run import Stage
from worker.models.load import context_window, load_config, release_memory
from worker.stages.answering.asking import answer_draws, open_draws, refuse_long
from worker.stages.answering.kept import AnswerParts
from worker.stages.answering.sources import AnsweringSource, load_source
from worker.stages.job import JobContext


def answer_here(attempt: JobContext, spec: AnswersSpec, parts: AnswerParts, source: AnsweringSource, missing: list[int]) -> None:
    """Load the model and let it answer the missing parts, after a look at whether all prompts have room; then it is gone."""
    try:
        _answer(attempt, spec, parts, source, missing)
    finally:
        gc.collect()
        release_memory()


def _answer(attempt: JobContext, spec: AnswersSpec, parts: AnswerParts, source: AnsweringSource, missing: list[int]) -> None:
    wanted = [prompt for number in missing for prompt in parts.prompts[number]]
    refuse_long(source.prompt_format, wanted, spec.sampling.max_new_tokens, context_window(load_config(source.folder)))
    attempt.stop.check()
    model, window = load_source(spec, source)
    num_all = sum(map(len, parts.prompts)) * spec.num_draws
    left = len(wanted) * spec.num_draws
    progress = attempt.start_stage(Stage.ANSWER, total=num_all, unit="answers")
    for number in missing:
        draws = open_draws(parts.prompts[number], spec.num_draws)
        answer_draws(model, source.prompt_format, draws, spec.sampling, window, attempt.stop.check)
        parts.write(number, (draw.to_row() for draw in draws), (draw.to_tokens() for draw in draws))
        left -= len(draws)
        progress(num_all - left, num_all)
