"""A look at what the trained policy knows by heart: its likeliest answers to prompts that it was trained on."""

from collections.abc import Sequence
from dataclasses import replace

from app.domain.events import ChatMessage, PromptRecited, RecitalHeld
from worker.models.adapter import LanguageModel
from worker.models.compiled import uncompiled
from worker.stages.attempt import AttemptContext
from worker.stages.evaluation.answers import answer, plan_sampling
from worker.stages.examples import Encoded, decode_answers
from worker.stages.held_out import find_best
from worker.stages.prepare import Ground
from worker.stages.training.distribution import find_whole
from worker.stages.training.weights import Weighing


def recite(attempt: AttemptContext, model: LanguageModel, ground: Ground, step: int, weighing: Weighing | None = None) -> None:
    """Let the policy answer training prompts, as many as evaluation.recite says; all processes must call this."""
    asked = choose_recited(ground.prepared.train, attempt.recipe.evaluation.recite)
    if not asked:
        return
    whole = find_whole(attempt, model, ground.policy_folder)
    with uncompiled(model):
        recital = attempt.ranks.lead_alone(lambda: hold_recital(attempt, whole, ground, asked, step, weighing))
    if recital is not None:
        attempt.emit(recital)


def choose_recited(examples: Sequence[Encoded], num: int) -> list[Encoded]:
    """Return the first different prompts of the training data."""
    return list({example.turns: example for example in reversed(examples)}.values())[::-1][:num]


def hold_recital(
    attempt: AttemptContext, model: LanguageModel, ground: Ground, asked: Sequence[Encoded], step: int, weighing: Weighing | None
) -> RecitalHeld:
    """Return the likeliest answers, each as long as it takes to say what was learned, beside that and its weight."""
    best = [find_best(example) for example in asked]
    learned = [response.ids.tolist() for response in best]
    weights = weighing.by_response() if weighing is not None else {}
    longest = max(map(len, learned))
    sampling = replace(plan_sampling(attempt, model, ground), max_new_tokens=longest, temperature=0.0, top_p=1.0)
    said = answer(attempt, model, ground, asked, sampling).texts
    right = decode_answers(ground.prompt_format, asked, learned)
    return RecitalHeld(
        step=step,
        prompts=[
            PromptRecited(
                example_id=one.example_id,
                prompt=[ChatMessage(role=role, content=content) for role, content, _ in one.turns],
                learned=wanted,
                answer=text,
                weight=weights.get((one.example_id, response.number)),
            )
            for one, response, wanted, text in zip(asked, best, right, said, strict=True)
        ],
    )
