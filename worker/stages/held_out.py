"""The two sets that held-out prompts are: validation, for curves and every choice; test, touched once, by the final figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.domain.recipe import EvaluationSettings
from worker.stages.batches import permute
from worker.stages.examples import Encoded, EncodedResponse
from worker.stages.seeds import derive_seed
from worker.stages.split import split

RESPONSE_EXAMPLES = 64  # at least so many examples (where there are as many) enter loss and preferences
PREFIXES = {"validation": "eval", "test": "test"}

SetName = Literal["validation", "test"]


@dataclass(frozen=True)
class EvaluationSet:
    """`prompts` are answered; the responses of `examples` are looked at: how likely they are."""

    name: SetName
    prompts: list[Encoded]
    examples: list[Encoded]

    @property
    def is_empty(self) -> bool:
        return not self.prompts and not self.examples

    @property
    def prefix(self) -> str:
        """How the keys of this set's metrics begin."""
        return PREFIXES[self.name]


def divide(held_out: Sequence[Encoded], settings: EvaluationSettings) -> tuple[list[Encoded], list[Encoded]]:
    """Return the validation and the test examples; what belongs together is wholly on one side, as in the held-out split."""
    return split(held_out, settings.test_share, derive_seed(settings.seed, "test"), settings.split)


def choose_sets(held_out: Sequence[Encoded], settings: EvaluationSettings) -> dict[SetName, EvaluationSet]:
    """Return both sets, with at most as many prompts as the recipe wants answered."""
    validation, test = divide(held_out, settings)
    return {
        "validation": choose_set("validation", validation, settings.num_prompts, settings),
        "test": choose_set("test", test, settings.num_test_prompts, settings),
    }


def choose_set(name: SetName, examples: Sequence[Encoded], num_prompts: int, settings: EvaluationSettings) -> EvaluationSet:
    """Return one side's set."""
    prompts = choose_prompts(examples, num_prompts, settings.seed_for("prompts"))
    return EvaluationSet(name, prompts, list(examples[: max(RESPONSE_EXAMPLES, num_prompts)]))


def choose_prompts(held_out: Sequence[Encoded], num_prompts: int, seed: int) -> list[Encoded]:
    """Return a fixed, seeded choice of different held-out prompts."""
    unique = list({example.turns: example for example in reversed(held_out)}.values())[::-1]
    return [unique[i] for i in permute(len(unique), derive_seed(seed, "prompts"))[:num_prompts]]


def find_best(example: Encoded) -> EncodedResponse:
    """Return the response that the held-out loss is of: the chosen one, or the best rated."""
    return max(example.responses, key=lambda response: (response.preference or 0, response.rating or 0.0))


def look_at(example: Encoded) -> list[EncodedResponse]:
    """Return the responses whose likelihood counts: the best, and those that are chosen or rejected."""
    best = find_best(example)
    return [response for response in example.responses if response is best or response.preference is not None]
