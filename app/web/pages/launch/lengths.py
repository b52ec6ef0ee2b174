"""What is known of the texts before a launch: how long they are in the policy's tokens and where they would be cut, what the
templates refuse or leave out, and one example token by token.

States: "incomplete" (no data set or no policy is chosen), "asked" (a worker reads), "refused" (it can't be read), "ready".
Other lengths are reckoned from the kept counts, without a worker.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.orm import Session

from app.domain.errors import InvalidInput, StudioError
from app.domain.preview.readings import ExampleRequest, LeftOut, LengthCounts, LengthsReading, LengthsRequest
from app.domain.problems import parse
from app.services import readings
from app.store.files.files import Files
from app.web.rendering.form_words import tell_error

LIMITS = ("tokens.max_prompt", "tokens.max_response")
STARTING = 512  # of both, as in a recipe


@dataclass(frozen=True)
class Texts:
    """Prompts or responses. `limit`: as it is typed, None while that is no number; `fitted`: what the window leaves of it."""

    path: str
    name: str
    counts: LengthCounts
    limit: int | None
    fitted: int | None
    suggested: int

    @property
    def id(self) -> str:
        return self.path.replace(".", "-")

    @property
    def share_cut(self) -> float | None:
        return None if self.fitted is None else self.counts.share_over(self.fitted)

    @property
    def quantiles(self) -> list[int]:
        return [self.counts.quantile(share) for share in (0.5, 0.9, 0.99, 1)]


@dataclass(frozen=True)
class Told:
    """Examples that are refused, or of which something is left out, by the policy's or the reward model's template."""

    who: str
    left: LeftOut
    is_refused: bool


@dataclass(frozen=True)
class LaunchLengths:
    """What is known of the form's data set in the tokens of its models."""

    state: str
    asked: LengthsRequest | None = None
    asked_of_reward: LengthsRequest | None = None
    reading: LengthsReading | None = None
    reward: LengthsReading | None = None
    sentence: str = ""
    reward_sentence: str = ""
    texts: list[Texts] = field(default_factory=list)

    def at(self, path: str) -> Texts | None:
        """Return what is known of the texts that this limit is for."""
        return next((texts for texts in self.texts if texts.path == path), None)

    @property
    def told(self) -> Iterator[Told]:
        """Yield what is refused and left out; counts are of the sample."""
        for who, reading in (("policy", self.reading), ("reward model", self.reward)):
            if reading is not None:
                yield from (Told(who, left, True) for left in reading.refused)
                yield from (Told(who, left, False) for left in reading.omitted)

    @property
    def reward_share_cut(self) -> float:
        """Share of the conversations that are longer than the reward model's window."""
        reading = self.reward
        return 0.0 if reading is None or reading.window is None else reading.responses.share_over(reading.window)


def look_at_lengths(session: Session, files: Files, owner_id: str, values: Mapping[str, str]) -> LaunchLengths:
    """Return what is known of these form values, without asking a worker anything."""
    if not values.get("dataset") or not values.get("policy.model"):
        return LaunchLengths("incomplete")
    try:
        asked = parse(LengthsRequest, {**common(values), **given(max_examples=values.get("max_examples"))}, InvalidInput)
        found = readings.find_answer(session, files, owner_id, asked)
        reward_id = reward_of(values)
        of_reward = asked_of_reward(asked, reward_id, values) if reward_id else None
        reward = readings.find_answer(session, files, owner_id, of_reward) if of_reward else None
    except StudioError as error:
        return LaunchLengths("refused", sentence=tell_error(error))
    lengths = LaunchLengths("asked", asked=asked, asked_of_reward=of_reward)
    if isinstance(reward, LengthsReading):
        lengths = replace(lengths, reward=reward)
    return add_lengths(lengths, found, values) if isinstance(found, LengthsReading) else lengths


def add_lengths(lengths: LaunchLengths, reading: LengthsReading, values: Mapping[str, str]) -> LaunchLengths:
    """Return what is known, with the counts at the form's limits."""
    limits = [read_limit(values, path) for path in LIMITS]
    fitted: tuple[int, ...] | tuple[None, None] = (None, None)
    if limits[0] is not None and limits[1] is not None:
        fitted = reading.fit(limits[0], limits[1])
    parts = zip(
        LIMITS, ("Prompts", "Responses"), (reading.prompts, reading.responses), limits, fitted, reading.suggest(), strict=True
    )
    return replace(lengths, state="ready", reading=reading, texts=[Texts(*part) for part in parts])


def read_limit(values: Mapping[str, str], path: str) -> int | None:
    text = values.get(path, "").strip()
    return (int(text) or None) if text.isdecimal() else None if text else STARTING


def common(values: Mapping[str, str]) -> dict[str, Any]:
    """Return what the readings of a launch share."""
    return {
        "model_id": values["policy.model"], "dataset_id": values["dataset"],
        **given(
            revision=values.get("policy.revision"), prompt_format=values.get("tokens.prompt_format"),
            day=values.get("tokens.template_date"),
        ),
    }  # fmt: skip


def given(**texts: str | None) -> dict[str, str]:
    """Return what was typed."""
    return {name: text.strip() for name, text in texts.items() if text and text.strip()}


def reward_of(values: Mapping[str, str]) -> str:
    """Return the reward model's id, where rewards come from one."""
    wants = values.get("method", "var") == "var" and values.get("reward.source") == "model"
    return values.get("reward.model", "") if wants else ""


def asked_of_reward(asked: LengthsRequest, reward_id: str, values: Mapping[str, str]) -> LengthsRequest:
    changes = {"model_id": reward_id, "revision": values.get("reward.revision") or None, "prompt_format": "auto", "whole": True}
    return asked.model_copy(update=changes)


def read_example_request(values: Mapping[str, str]) -> ExampleRequest:
    """Return the request for the form's example, at its lengths. Raises InvalidInput."""
    if not values.get("dataset") or not values.get("policy.model"):
        raise InvalidInput("Choose a data set and a policy first.")
    limits = {path.removeprefix("tokens."): read_limit(values, path) for path in LIMITS}
    typed = given(
        example=values.get("reading.example"), reward_id=reward_of(values), reward_revision=values.get("reward.revision")
    )
    return parse(ExampleRequest, {**common(values), **{k: v for k, v in limits.items() if v}, **typed}, InvalidInput)
