"""Attempts at answering: a prompt set, a tiny model, and the spec that the runner reads."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.domain.answering.answers import SamplingSettings
from app.domain.answering.job import AnswersSpec, JudgeJob
from app.domain.answering.judge import ExactJudge, LengthJudge, RewardJudge
from app.domain.answering.prompt_set import PromptMessage, number, to_lines
from tests.worker.workshop import Workshop

QUESTIONS = (
    "the printer is broken",
    "my order arrived late",
    "this lamp makes a noise",
    "the map costs too much",
    "a blue chair",
)


def make_prompts(num: int = 5, *, several: bool = False) -> bytes:
    """The file of a prompt set; `several`: the first asks a second question behind the first answer."""
    found = []
    for k in range(num):
        messages = [PromptMessage(role="user", content=f"{QUESTIONS[k % len(QUESTIONS)]} {k}")]
        if several and k == 0:
            messages.append(PromptMessage(role="user", content="and the red kettle?"))
        found.append((messages, "Not my problem" if k % 2 else None, ()))
    return to_lines(number(found)[0])


class Answering:
    """Makes attempts of kind answers below a workshop's root."""

    def __init__(self, workshop: Workshop, root: Path) -> None:
        self.workshop, self.root = workshop, root
        self._runs = 0

    def attempt(
        self, *, prompts: bytes | None = None, model: Path | None = None, answers_dir: Path | None = None, num_draws: int = 2,
        judges: tuple[JudgeJob, ...] = (), device: str = "cpu", **sampling: Any,
    ) -> Path:  # fmt: skip
        self._runs += 1
        run_dir = self.root / f"run_{self._runs}"
        folder = run_dir / "attempts" / "1"
        folder.mkdir(parents=True)
        path = run_dir / "prompts.jsonl"
        path.write_bytes(prompts or make_prompts())
        spec = AnswersSpec(
            run_id=run_dir.name, attempt=1, run_dir=str(run_dir), hub_dir=str(self.root / "hub"), device=device, num_threads=1,
            prompts_path=str(path), answers_dir=str(answers_dir or run_dir / "answers"), num_draws=num_draws, judges=judges,
            model=self.workshop.source(model or self.workshop.policy()),
            sampling=SamplingSettings.model_validate({"max_new_tokens": 8, **sampling}),
        )  # fmt: skip
        (folder / "spec.json").write_text(spec.model_dump_json(by_alias=True))
        return folder

    def reward_judge(self, key: str = "reward") -> JudgeJob:
        return JudgeJob(key=key, judge=RewardJudge(model="tiny"), model=self.workshop.source(self.workshop.reward()))


LENGTH, EXACT = JudgeJob(key="length", judge=LengthJudge()), JudgeJob(key="exact", judge=ExactJudge())


def answers_of(folder: Path) -> Path:
    return Path(json.loads((folder / "spec.json").read_text())["answers_dir"])


def read_rows(folder: Path, pattern: str = "part-*.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob(pattern)) for line in path.read_text().splitlines()]


@pytest.fixture
def answering(workshop: Workshop, tmp_path: Path) -> Answering:
    return Answering(workshop, tmp_path)
