"""Judges of answers: a reward model, the length, or a reference answer that is met exactly or by a regular expression."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from app.domain.dataset import Frozen
from app.domain.problems import fault
from app.domain.texts import Line

DECIMALS = 6


class RewardJudge(Frozen):
    """A reward model reads the whole conversation and gives a number."""

    kind: Literal["reward"] = "reward"
    model: Annotated[Line, Field(min_length=1, max_length=80)] = Field(description="The reward model's id.")


class LengthJudge(Frozen):
    """How long the answer is, in characters: what other judges are to be compared with."""

    kind: Literal["length"] = "length"


class ExactJudge(Frozen):
    """1 where the answer is the prompt's reference, but for blanks at its ends and, unless it counts, case."""

    kind: Literal["exact"] = "exact"
    ignore_case: bool = True


class PatternJudge(Frozen):
    """1 where the last match of a regular expression in the answer is the one in the reference; without a reference, where there
    is a match.
    """

    kind: Literal["pattern"] = "pattern"
    pattern: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        description="A regular expression; its first group, or all that it matches, is compared with the reference's."
    )

    @model_validator(mode="after")
    def pattern_can_be_read(self) -> Self:
        try:
            re.compile(self.pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise fault("pattern", f"This is no regular expression: {error}.") from None
        return self


class LlmJudge(Frozen):
    """A language model at an endpoint compares each answer with another model's, in both orders: 1 a win, 0.5 a tie, 0 a loss.
    Without another model it gives each answer a grade from 1 to 10.
    """

    kind: Literal["llm"] = "llm"
    endpoint: Annotated[Line, Field(min_length=1, max_length=80)] = Field(description="The endpoint's id.")
    against: Annotated[Line, Field(min_length=1, max_length=80)] | None = Field(
        None, description="Answers of another model to the same prompt set; null: grades from 1 to 10."
    )


Judge = Annotated[RewardJudge | LlmJudge | LengthJudge | ExactJudge | PatternJudge, Field(discriminator="kind")]


class JudgesRequest(Frozen):
    """Who is asked to judge answers."""

    judges: Annotated[list[Judge], Field(min_length=1, max_length=16)]


NAMES = {"length": "Length", "exact": "Exact match"}


class VerdictFacts(Frozen):
    """How a language model judged: by which text, how often it could be read, and whether it prefers what it reads first."""

    prompt: str  # the text's version
    prompt_sha256: str
    num_verdicts: int  # asked for; of a pair there are two, one for each order
    num_unread: int  # that named none
    num_pairs: int = 0  # with two verdicts
    num_agreed: int = 0  # whose verdicts say the same in both orders
    first_share: float | None = None  # of the verdicts that prefer one, those for the answer that is shown first
    first_low: float | None = None  # its 95 % interval, over prompts
    first_high: float | None = None


class JudgementFacts(Frozen):
    """What a judge said, as figures: the mean over prompts of each prompt's mean, and its standard error."""

    num_scored: int
    num_prompts: int  # that have a score
    mean: float | None
    se: float | None
    seconds: float = 0.0
    model_sha256: str | None = None
    verdicts: VerdictFacts | None = None  # of a language model


def judge_key(judge: Judge, contents: Sequence[object] = ()) -> str:
    """Return the key of a judge: the same for the same judge with the same `contents` of its model."""
    text = json.dumps([judge.model_dump(mode="json"), list(contents)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def name_judge(judge: Judge, model_name: str = "") -> str:
    """Return what people call the judge."""
    if isinstance(judge, RewardJudge):
        return model_name or judge.model
    if isinstance(judge, LlmJudge):
        return (model_name or judge.endpoint)[:200]
    return f"Pattern {judge.pattern}"[:200] if isinstance(judge, PatternJudge) else NAMES[judge.kind]


def needs_reference(judge: Judge) -> bool:
    """Return whether the judge says nothing without a reference answer."""
    return isinstance(judge, ExactJudge)


def score_text(judge: LengthJudge | ExactJudge | PatternJudge, text: str, reference: str | None) -> float | None:
    """Return the score of an answer by a judge that is no model; None where the judge has nothing to go by."""
    if isinstance(judge, LengthJudge):
        return float(len(text))
    if isinstance(judge, PatternJudge):
        return _match(judge.pattern, text, reference)
    if reference is None:
        return None
    said, right = text.strip(), reference.strip()
    return float(said.casefold() == right.casefold() if judge.ignore_case else said == right)


def _match(pattern: str, text: str, reference: str | None) -> float:
    found = _last(pattern, text)
    if found is None or reference is None:
        return float(found is not None)
    right = _last(pattern, reference)
    return float(found == (reference.strip() if right is None else right))


def _last(pattern: str, text: str) -> str | None:
    matches = list(re.finditer(pattern, text))
    if not matches:
        return None
    last = matches[-1]
    return ((last[1] or "") if last.re.groups else last[0]).strip()


def describe_scores(scores: Mapping[tuple[int, int], float | None]) -> tuple[int, int, float | None, float | None]:
    """Return how many scores and prompts there are, the mean over prompts of their means, and its standard error."""
    by_prompt: dict[int, list[float]] = {}
    for (index, _), score in scores.items():
        if score is not None:
            by_prompt.setdefault(index, []).append(score)
    means = [sum(values) / len(values) for values in by_prompt.values()]
    num_scored = sum(len(values) for values in by_prompt.values())
    if not means:
        return 0, 0, None, None
    mean = sum(means) / len(means)
    if len(means) < 2:
        return num_scored, len(means), mean, None
    variance = sum((value - mean) ** 2 for value in means) / (len(means) - 1)
    return num_scored, len(means), mean, math.sqrt(variance / len(means))


def read_judge(stored: Mapping[str, Any]) -> RewardJudge | LlmJudge | LengthJudge | ExactJudge | PatternJudge:
    """Return a judge as it is kept."""
    found: RewardJudge | LlmJudge | LengthJudge | ExactJudge | PatternJudge = JUDGES.validate_python(stored)
    return found


JUDGES: TypeAdapter[Any] = TypeAdapter(Judge)
