"""What an evaluation leaves in samples.jsonl and responses.jsonl: enough to compute every figure of the page again.

The forms of both files are described in docs/method.md.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from app.domain.events import ChatMessage, PromptJudged, SampleDrawn, finite
from worker.stages.attempt import AttemptContext
from worker.stages.evaluation.likelihoods import DrawLikelihoods, add_up
from worker.stages.examples import Encoded, EncodedResponse
from worker.stages.held_out import find_best, look_at

SAMPLES, RESPONSES = "samples.jsonl", "responses.jsonl"


@dataclass(frozen=True)
class AnswerRecord:
    """One model's answer, with the log-probability of each of its tokens under both models."""

    text: str
    ids: list[int]
    finished: bool
    reward: float | None
    policy: list[float]
    reference: list[float]

    def to_row(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "ids": self.ids,
            "finished": self.finished,
            "reward": finite(self.reward),
            **_likelihoods(self.policy, self.reference),
        }


@dataclass(frozen=True)
class DrawRecord:
    """The policy's own draw at temperature 1 from all tokens, over which the KL is taken."""

    ids: list[int]
    finished: bool
    likelihoods: DrawLikelihoods

    @property
    def kl(self) -> float:
        """KL(π_θ‖π_ref) summed along the draw, in nats."""
        return add_up(self.likelihoods.kls)

    def to_row(self) -> dict[str, Any]:
        kls = [finite(value) for value in self.likelihoods.kls]
        both = _likelihoods(self.likelihoods.policy, self.likelihoods.reference)
        return {"ids": self.ids, "finished": self.finished, "kl": finite(self.kl), "token_kl": kls, **both}


@dataclass(frozen=True)
class PromptRecord:
    """A held-out prompt with the answers of both models and the policy's draw."""

    example: Encoded
    reference: AnswerRecord
    policy: AnswerRecord
    draw: DrawRecord

    def to_row(self) -> dict[str, Any]:
        return {
            "example_id": self.example.example_id,
            "prompt": [message.model_dump() for message in self.messages],
            "prompt_ids": list(self.example.prompt_ids),
            "reference": self.reference.to_row(),
            "policy": self.policy.to_row(),
            "draw": self.draw.to_row(),
        }

    @property
    def messages(self) -> list[ChatMessage]:
        return [ChatMessage(role=role, content=content) for role, content, _ in self.example.turns]

    def to_judged(self) -> PromptJudged | None:
        """Return what the two answers came to, for comparisons with other runs; None where nothing judges them."""
        policy, reference = finite(self.policy.reward), finite(self.reference.reward)
        if policy is None or reference is None:
            return None
        return PromptJudged(
            example_id=self.example.example_id,
            policy_reward=policy,
            reference_reward=reference,
            policy_length=len(self.policy.ids),
            reference_length=len(self.reference.ids),
        )

    def to_event(self, step: int, index: int) -> SampleDrawn:
        """Return what the page shows of it."""
        return SampleDrawn(
            step=step,
            index=index,
            example_id=self.example.example_id,
            prompt=self.messages,
            reference=self.reference.text,
            policy=self.policy.text,
            reference_reward=self.reference.reward,
            policy_reward=self.policy.reward,
        )


@dataclass(frozen=True)
class ExampleRecord:
    """A held-out example with log π of those of its responses that count, under both models."""

    example: Encoded
    policy: list[float]
    reference: list[float]

    @property
    def num_best(self) -> int:
        """Tokens of the best response."""
        return len(find_best(self.example).ids)

    @property
    def best(self) -> float:
        """Return log π_θ of the best response."""
        responses = look_at(self.example)
        return self.policy[responses.index(find_best(self.example))]

    @property
    def margin(self) -> float | None:
        """How much more the policy has gained on the chosen than on the rejected response, means where there are several.

        None where the example has no pair of the two.
        """
        gains = [policy - reference for policy, reference in zip(self.policy, self.reference, strict=True)]
        return find_margin(look_at(self.example), gains)

    def to_rows(self) -> list[dict[str, Any]]:
        best = find_best(self.example)
        return [
            {
                **_describe(self.example, response),
                "best": response is best,
                "logprob_policy": finite(policy),
                "logprob_reference": finite(reference),
            }
            for response, policy, reference in zip(look_at(self.example), self.policy, self.reference, strict=True)
        ]


@dataclass(frozen=True)
class RewardRecord:
    """A held-out example with a chosen and a rejected response, and the reward of each of its responses."""

    example: Encoded
    rewards: list[float]

    @property
    def margin(self) -> float:
        """Reward of the chosen minus that of the rejected response, means where there are several."""
        margin = find_margin(self.example.responses, self.rewards)
        return math.nan if margin is None else margin

    @property
    def pair_losses(self) -> list[float]:
        """−log σ(r_chosen − r_rejected) of each pair; infinite or NaN as its rewards are."""
        sides = {side: [reward for response, reward in zip(self.example.responses, self.rewards, strict=True)
                        if response.preference == side] for side in (1, -1)}  # fmt: skip
        return [float(softplus(rejected - chosen)) for chosen in sides[1] for rejected in sides[-1]]

    def to_rows(self) -> list[dict[str, Any]]:
        return [
            {**_describe(self.example, response), "reward": finite(reward)}
            for response, reward in zip(self.example.responses, self.rewards, strict=True)
        ]


def softplus(value: float) -> float:
    """Return log(1 + e^value), without overflow."""
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


def find_margin(responses: Sequence[EncodedResponse], values: Sequence[float]) -> float | None:
    """Return the mean value of the chosen minus that of the rejected responses; None where one of the sides is empty."""
    chosen, rejected = (
        [value for response, value in zip(responses, values, strict=True) if response.preference == side] for side in (1, -1)
    )
    return fmean(chosen) - fmean(rejected) if chosen and rejected else None


def _describe(example: Encoded, response: EncodedResponse) -> dict[str, Any]:
    return {
        "example_id": example.example_id,
        "number": response.number,
        "preference": response.preference,
        "rating": response.rating,
        "num_tokens": len(response.ids),
    }


def _likelihoods(policy: list[float], reference: list[float]) -> dict[str, Any]:
    return {
        "logprob_policy": finite(add_up(policy)),
        "logprob_reference": finite(add_up(reference)),
        "token_logprob_policy": [finite(value) for value in policy],
        "token_logprob_reference": [finite(value) for value in reference],
    }


def append_rows(attempt: AttemptContext, name: str, head: Mapping[str, Any], rows: Iterable[dict[str, Any]]) -> None:
    """Add rows to one of the files, each beginning with `head`: the step and the set."""
    attempt.refuse_superseded()
    path: Path = attempt.artifacts_dir / name
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({**head, **row}, ensure_ascii=False, allow_nan=False) + "\n")
