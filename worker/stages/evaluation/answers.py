"""Answers to held-out prompts: how they are drawn, their texts, and what the judge says of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from worker.models.adapter import LanguageModel
from worker.models.generate import Sampling, generate
from worker.models.prompts import PromptFormat
from worker.stages.attempt import AttemptContext
from worker.stages.examples import Encoded, decode_answers
from worker.stages.prepare import Ground
from worker.stages.scoring.sources import RewardSource
from worker.stages.seeds import derive_seed


@dataclass(frozen=True)
class DrawnAnswers:
    """One answer per held-out prompt; `rewards` is None when nothing judges, unfinished ones reached max_new_tokens."""

    ids: list[list[int]]
    texts: list[str]
    finished: list[bool]
    rewards: list[float] | None = None


def plan_sampling(attempt: AttemptContext, model: LanguageModel, ground: Ground) -> Sampling:
    """Return how the answers that are shown and judged are drawn. Policy and reference share the random numbers."""
    settings = attempt.recipe.evaluation
    return Sampling(
        ground.lengths.max_new_tokens, settings.temperature, settings.top_p, derive_seed(settings.seed_for("draws"), "generate"),
        end_ids(model, ground.prompt_format), ground.prompt_format.is_ended,
    )  # fmt: skip


def plain_sampling(sampling: Sampling) -> Sampling:
    """Return how the policy itself draws, at temperature 1 from all tokens, which is what a KL is over.

    Where the answers that are shown are such draws, they serve; others get draws of their own beside them. The random numbers
    are the same, so that the KL does not depend on how the shown ones are drawn.
    """
    return replace(sampling, temperature=1.0, top_p=1.0)


def end_ids(model: LanguageModel, prompt_format: PromptFormat) -> frozenset[int]:
    """Return the tokens that end an answer: what ends a turn, and those of the model's own generation settings."""
    declared = getattr(getattr(model.network, "generation_config", None), "eos_token_id", None)
    listed = declared if isinstance(declared, list) else [declared]
    return frozenset(token for token in (*prompt_format.end_ids, *listed) if token is not None)


def answer(
    attempt: AttemptContext, model: LanguageModel, ground: Ground, prompts: Sequence[Encoded], sampling: Sampling
) -> DrawnAnswers:
    """Let the model answer the prompts; nothing judges yet."""
    ids = generate(model, [example.prompt_ids for example in prompts], sampling, attempt.stop.check)
    finished = [bool(answer_ids) and sampling.ends(answer_ids) for answer_ids in ids]
    return DrawnAnswers(ids, decode_answers(ground.prompt_format, prompts, ids), finished)


def judge(attempt: AttemptContext, ground: Ground, prompts: Sequence[Encoded], *answered: DrawnAnswers) -> list[DrawnAnswers]:
    """Return the answers with their rewards; the judging model is loaded for this, once, and released again."""
    judging = attempt.spec.judge or attempt.spec.reward
    if judging is None or not prompts:
        return list(answered)
    texts = [text for answers in answered for text in answers.texts]
    rewards = RewardSource(attempt, ground, judging).score_answers([*prompts] * len(answered), texts)
    num = len(prompts)
    return [replace(answers, rewards=rewards[k * num : (k + 1) * num]) for k, answers in enumerate(answered)]
