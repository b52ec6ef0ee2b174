"""Answers of a model behind an endpoint: asked for one by one, turn by turn, kept as they come, told in parts as all others."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from app.domain.answering.answers import SamplingSettings
from app.domain.answering.endpoint import EndpointSource
from app.domain.answering.job import AnswersSpec
from app.domain.answering.prompt_set import Prompt, split_turns
from app.system.outgoing.chat import Completion, Question
from worker.stages.answering.kept import AnswerParts, Row
from worker.stages.answering.replies import Replies
from worker.stages.job import JobContext
from worker.stages.seeds import derive_seed

REPLIES = "replies"
SEED_BITS = 31  # what every server takes


def identify(source: EndpointSource) -> str:
    """Return what stands for the hash of weights that are not here."""
    return hashlib.sha256(f"{source.address} {source.model}".encode()).hexdigest()


def answer_there(
    attempt: JobContext, spec: AnswersSpec, source: EndpointSource, parts: AnswerParts, missing: Sequence[int],
    progress: Callable[[int], None],
) -> None:  # fmt: skip
    """Have the endpoint give the answers of the missing parts. A question that it refuses is told and left out."""
    kept = Replies(attempt, Path(spec.answers_dir) / REPLIES, source)
    kept.num_answered = len(parts.prompts) - len(missing)
    try:
        for number in missing:
            jobs = {
                (prompt.index, draw): AnswerInMaking(kept, prompt, draw, spec.sampling)
                for prompt in parts.prompts[number]
                for draw in range(spec.num_draws)
            }
            rows: dict[tuple[int, int], Row | None] = {}
            for key, row in kept.run_all({key: answer.give for key, answer in jobs.items()}):
                rows[key] = row
                progress(1)
            kept.refuse_mute()
            if refused := sorted({index + 1 for (index, _), row in rows.items() if row is None}):
                attempt.log(f"{source.name} refuses to answer {describe_prompts(refused)}: left out.", "warning")
            parts.write(number, [row for _, row in sorted(rows.items()) if row is not None], [])
            for answer in jobs.values():
                answer.forget()
    finally:
        kept.close()


def describe_prompts(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"prompt {shown}" if len(numbers) == 1 else f"{len(numbers)} prompts ({shown}{', …' if len(numbers) > 5 else ''})"


class AnswerInMaking:
    """One answer in the making: the questions of a prompt, one turn after the other."""

    def __init__(self, replies: Replies, prompt: Prompt, draw: int, sampling: SamplingSettings) -> None:
        self._replies, self._prompt, self._draw, self._sampling = replies, prompt, draw, sampling
        self._asked: list[Question] = []

    def give(self) -> Row | None:
        """Return the answer's line of a part; None where a question is refused. Raises EndpointFailed."""
        said: list[Completion] = []
        messages: list[dict[str, str]] = []
        for part in split_turns(self._prompt.messages):
            messages += [{"role": message.role, "content": message.content} for message in part]
            question = self._pose(tuple(messages), len(said))
            reply = self._replies.ask(question)
            if reply is None:
                return None
            self._asked.append(question)
            said.append(reply)
            messages.append({"role": "assistant", "content": reply.text})
        last = said[-1]
        row: Row = {
            "index": self._prompt.index, "prompt_id": self._prompt.id, "draw": self._draw, "text": last.text,
            "finished": last.is_finished, "num_tokens": last.num_tokens, "logprob": None,
        }  # fmt: skip
        return {**row, "earlier": [reply.text for reply in said[:-1]]} if len(said) > 1 else row

    def _pose(self, messages: Sequence[dict[str, str]], turn: int) -> Question:
        settings = self._sampling
        seed = derive_seed(settings.seed, "answer", self._prompt.id, self._draw, turn) % 2**SEED_BITS
        return Question(messages, settings.max_new_tokens, settings.temperature, settings.top_p, seed)

    def forget(self) -> None:
        """Drop the replies: the part has them."""
        for question in self._asked:
            self._replies.drop(question)
