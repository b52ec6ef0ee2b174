"""Prompts as the model reads them, and its answers to them, turn by turn.

The random numbers of an answer come from the seed, the prompt's id, the draw and the turn alone: neither the model nor what else
is asked beside it changes them, so models are compared in pairs, and what a resumed attempt answers is the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.domain.answering.answers import SamplingSettings
from app.domain.answering.prompt_set import Prompt, split_turns
from app.domain.errors import InvalidInput
from worker.models.adapter import LanguageModel
from worker.models.encode import encode
from worker.models.generate import Sampling, generate
from worker.models.prompts import Prompted, PromptFormat
from worker.models.template import ChatTurn, PromptRefused, TemplateExceeded
from worker.stages.evaluation.answers import end_ids
from worker.stages.evaluation.likelihoods import add_up, measure_tokens
from worker.stages.seeds import derive_seed

ANY_LENGTH = 2**31
STAND_IN = ChatTurn("assistant", "Yes.")  # behind a prompt whose answer is not there yet


@dataclass
class Draw:
    """One answer in the making: its conversation so far, and what was said last."""

    prompt: Prompt
    number: int
    parts: list[list[ChatTurn]]
    said: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    finished: bool = False
    prompt_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def turns(self) -> list[ChatTurn]:
        """What stands before the next answer."""
        turns: list[ChatTurn] = []
        for part, said in zip(self.parts, self.said, strict=False):
            turns += [*part, ChatTurn("assistant", said)]
        return turns + self.parts[len(self.said)]

    @property
    def is_over(self) -> bool:
        return len(self.said) == len(self.parts)

    def to_row(self) -> dict[str, object]:
        """Return the answer's line of a part."""
        row: dict[str, object] = {
            "index": self.prompt.index, "prompt_id": self.prompt.id, "draw": self.number, "text": self.said[-1],
            "finished": self.finished, "num_tokens": len(self.ids), "logprob": add_up(self.logprobs),
        }  # fmt: skip
        return {**row, "earlier": self.said[:-1]} if len(self.said) > 1 else row

    def to_tokens(self) -> dict[str, object]:
        return {"index": self.prompt.index, "draw": self.number, "ids": self.ids, "logprobs": self.logprobs}


def open_draws(prompts: Sequence[Prompt], num_draws: int) -> list[Draw]:
    """Return the answers that are to be given, by prompt and draw."""
    return [
        Draw(prompt, number, [[ChatTurn(m.role, m.content) for m in part] for part in split_turns(prompt.messages)])
        for prompt in prompts
        for number in range(num_draws)
    ]


def answer_draws(
    model: LanguageModel, prompt_format: PromptFormat, draws: Sequence[Draw], settings: SamplingSettings, window: int | None,
    check: Callable[[], None],
) -> None:  # fmt: skip
    """Let the model give these answers, one turn after the other, with the log-probability of each token of the last."""
    ends = end_ids(model, prompt_format)
    while open_ := [draw for draw in draws if not draw.is_over]:
        encode_draws(prompt_format, open_)
        rooms = [find_room(draw, settings.max_new_tokens, window) for draw in open_]
        for room in sorted(set(rooms), reverse=True):
            asked = [draw for draw, its in zip(open_, rooms, strict=True) if its == room]
            sampling = Sampling(room, settings.temperature, settings.top_p, settings.seed, ends, prompt_format.is_ended)
            _say(model, prompt_format, asked, sampling, check)
    pairs = [(draw.prompt_ids, draw.ids) for draw in draws]
    for draw, logprobs in zip(draws, measure_tokens(model, pairs, check), strict=True):
        draw.logprobs = logprobs


def _say(
    model: LanguageModel, prompt_format: PromptFormat, asked: Sequence[Draw], sampling: Sampling, check: Callable[[], None]
) -> None:
    seeds = [derive_seed(sampling.seed, "answer", draw.prompt.id, draw.number, len(draw.said)) for draw in asked]
    answers = generate(model, [draw.prompt_ids for draw in asked], sampling, check, seeds)
    for draw, ids in zip(asked, answers, strict=True):
        draw.ids, draw.finished = ids, bool(ids) and sampling.ends(ids)
        draw.said.append(prompt_format.decode_response(ids))


def encode_draws(prompt_format: PromptFormat, draws: Sequence[Draw]) -> None:
    """Give the draws the ids of what stands before their next answer. Raises InvalidInput for what the model can't be asked."""
    asked = [Prompted(tuple(draw.turns), (STAND_IN,)) for draw in draws]
    different = list(dict.fromkeys(asked))
    first = dict(zip(reversed(asked), reversed(draws), strict=True))
    try:
        found = dict(zip(different, encode(prompt_format, different, ANY_LENGTH, ANY_LENGTH), strict=True))
    except TemplateExceeded as exceeded:
        raise exceeded.in_row(first[different[exceeded.number]].prompt.index + 1) from exceeded
    for draw, prompted in zip(draws, asked, strict=True):
        encoded = found[prompted]
        if isinstance(encoded, PromptRefused):
            where = f"Prompt {draw.prompt.index + 1} of the set can't be put to the model"
            raise InvalidInput(f"{where}: {encoded}. Leave it out of the prompt set, or take another prompt format.")
        draw.prompt_ids = encoded.prompt_ids


def refuse_long(prompt_format: PromptFormat, prompts: Sequence[Prompt], longest: int, window: int | None) -> None:
    """Raise InvalidInput for the first prompt that the model has no room for, with all answers before the last."""
    if window is None:
        return
    draws = open_draws(prompts, 1)
    encode_draws(prompt_format, draws)
    for draw in draws:
        later = sum(len(turn.content.encode()) for part in draw.parts[1:] for turn in part)  # at most so many tokens
        num_earlier = len(draw.parts) - 1
        wanted = len(draw.prompt_ids) + num_earlier * longest + later
        if wanted >= window:
            with_answers = f", with up to {longest} for each earlier answer," if num_earlier else ""
            raise InvalidInput(
                f"Prompt {draw.prompt.index + 1} of the set may come to {wanted} tokens{with_answers} and the model reads "
                f"{window}, its answer included: leave the prompt out, ask for shorter answers, or take another model."
            )


def find_room(draw: Draw, longest: int, window: int | None) -> int:
    """Return how many tokens the answer may have beside its prompt."""
    return longest if window is None else max(1, min(longest, window - len(draw.prompt_ids)))
