"""K answers of the reference to every training prompt, made once, with their log π_ref and their rewards.

They are what Ẑ(x) is the mean of (worker.var.draws), so they are drawn from π_ref itself: temperature 1, all tokens. The random
numbers of an answer come from the seed, its prompt and its number alone. The key covers prompts, model and sampling, but
neither batches nor λ: a second run, another λ and a sweep find them. One model at a time, as in scoring.
Legend: P different prompts, N = P·K answers, prompt by prompt.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from app.domain.answering.layout import prompts_per_part
from app.domain.errors import ModelInvalid
from app.domain.run import Stage
from worker.models.generate import Sampling, generate
from worker.models.load import context_window, hash_tokenizer, load_config
from worker.stages.attempt import AttemptContext
from worker.stages.drawing.kept import Artifact, Tensors, find_or_make
from worker.stages.evaluation.answers import end_ids
from worker.stages.evaluation.likelihoods import measure_tokens
from worker.stages.examples import Encoded, EncodedResponse, decode_answers
from worker.stages.prepare import Ground
from worker.stages.scoring.sources import ReferenceSource, RewardSource
from worker.stages.seeds import derive_seed

PASSES = 2  # the answers, then their rewards


@dataclass(frozen=True)
class Draws:
    """The answers of π_ref to P different prompts; `place`: which of them a prompt is. log π_ref is summed over the tokens."""

    num_draws: int
    place: Mapping[str, int]
    ids: Sequence["array[int]"]
    texts: Sequence[str]
    finished_N: Tensor
    logprob_N: Tensor
    reward_N: Tensor
    keys: tuple[str, ...]
    hit: bool

    def of(self, example: Encoded) -> slice:
        """Return where the answers to the example's prompt stand."""
        first = self.place[name_prompt(example)] * self.num_draws
        return slice(first, first + self.num_draws)

    def add_to(self, example: Encoded) -> Encoded:
        """Return the example with the draws behind its own responses, numbered −1, −2, …"""
        own = self.of(example)
        answers = enumerate(zip(self.ids[own], self.texts[own], strict=True))
        drawn = [EncodedResponse(ids, text, None, None, -1 - k) for k, (ids, text) in answers]
        return replace(example, responses=(*example.responses, *drawn))


def name_prompt(example: Encoded) -> str:
    """Return what tells a prompt from all others: its ids, and the turns that a reward model reads."""
    turns = json.dumps([list(example.turns), example.tools, example.is_continued])
    return hashlib.sha256(example.prompt_ids.tobytes() + b"|" + turns.encode("utf-8", "surrogatepass")).hexdigest()


def make_draws(attempt: AttemptContext, ground: Ground, reference: ReferenceSource) -> Draws:
    """Return the draws to all training prompts, found or made. Raises ModelInvalid for a reward that is not finite."""
    return Drawing(attempt, ground, reference).make()


class Drawing:
    """The making of a run's draws."""

    def __init__(self, attempt: AttemptContext, ground: Ground, reference: ReferenceSource) -> None:
        self.attempt, self.ground, self.settings = attempt, ground, attempt.recipe.draws
        self.prompts = {name_prompt(example): example for example in reversed(ground.prepared.train)}
        self.prompts = dict(reversed(self.prompts.items()))  # of equal prompts the first, in the data's order
        self.reference = reference
        window = context_window(load_config(ground.policy_folder))
        longest = self.settings.max_new_tokens
        self.limit = longest if window is None else max(1, min(longest, window - ground.lengths.max_prompt))
        size = prompts_per_part(self.settings.num_draws, self.limit)
        names = list(self.prompts)
        self.parts = [names[start : start + size] for start in range(0, len(names), size)]
        self._report: Callable[[int, int], None] | None = None

    def make(self) -> Draws:
        attempt, num = self.attempt, len(self.prompts) * self.settings.num_draws
        answers, had_answers = find_or_make(attempt, self.answers, len(self.parts), self._answer, "draws of the reference")
        ids = [array("i", part.tolist()) for part in answers["ids"].split(answers["num_tokens"].tolist())]
        asked = [example for example in self.prompts.values() for _ in range(self.settings.num_draws)]
        texts = decode_answers(self.ground.prompt_format, asked, ids)
        rewards, had_rewards = self._find_rewards(texts)
        hit = had_answers and had_rewards
        if hit:
            attempt.log(f"The {num} draws of the reference with their rewards were made before and are reused.")
        finished_N = answers["finished"].bool()
        return Draws(
            self.settings.num_draws, {name: k for k, name in enumerate(self.prompts)}, ids, texts, finished_N,
            answers["logprob"], rewards, (self.answers.key, self.rewards.key), hit,
        )  # fmt: skip

    @cached_property
    def answers(self) -> Artifact:
        """What the answers depend on."""
        facts = self.reference.model_facts | {
            "tokenizer": hash_tokenizer(self.ground.policy_folder),
            "format": "chat template" if self.ground.prompt_format.chat else "plain turns",
            "num_draws": str(self.settings.num_draws),
            "max_new_tokens": str(self.limit),
            "seed": str(self.settings.seed),
        }
        prompts = hashlib.sha256("".join(self.prompts).encode()).hexdigest()
        return Artifact("draws", "draws.safetensors", {**facts, "prompts": prompts}, facts)

    @cached_property
    def source(self) -> RewardSource:
        return RewardSource(self.attempt, self.ground)

    @cached_property
    def rewards(self) -> Artifact:
        """What their rewards depend on."""
        facts = self.source.model_facts
        return Artifact("draw_rewards", "rewards.safetensors", {**facts, "draws": self.answers.key}, facts)

    def _answer(self, number: int) -> Tensors:
        """Let the reference answer the prompts of a part."""
        progress = self._begin(0)
        model, check = self.reference.model, self.attempt.stop.check
        names = [name for name in self.parts[number] for _ in range(self.settings.num_draws)]
        asked = [self.prompts[name].prompt_ids for name in names]
        seeds = [derive_seed(self.settings.seed, "draw", name, k % self.settings.num_draws) for k, name in enumerate(names)]
        prompt_format = self.ground.prompt_format
        sampling = Sampling(self.limit, 1.0, 1.0, 0, end_ids(model, prompt_format), prompt_format.is_ended)
        drawn = generate(model, asked, sampling, check, seeds)
        logprobs = measure_tokens(model, list(zip(asked, drawn, strict=True)), check)
        progress(number)
        return {
            "ids": torch.tensor([token for ids in drawn for token in ids], dtype=torch.int32),
            "num_tokens": torch.tensor([len(ids) for ids in drawn], dtype=torch.int32),
            "finished": torch.tensor([bool(ids) and sampling.ends(ids) for ids in drawn], dtype=torch.uint8),
            "logprob": torch.tensor([sum(values) for values in logprobs], dtype=torch.float32),
        }

    def _find_rewards(self, texts: Sequence[str]) -> tuple[Tensor, bool]:
        """Return the rewards of all answers, and whether they were there; the reference makes room for the reward model."""
        num = self.settings.num_draws
        starts = [0]
        for part in self.parts:
            starts.append(starts[-1] + len(part) * num)

        def judge(number: int) -> Tensors:
            progress = self._begin(1)
            self.reference.release()
            asked = [self.prompts[name] for name in self.parts[number] for _ in range(num)]
            rewards = torch.tensor(self.source.score_texts(asked, texts[starts[number] : starts[number + 1]]))
            if not bool(rewards.isfinite().all()):
                raise ModelInvalid("The reward model gives a draw a reward that is not finite. Try reward.dtype float32.")
            progress(number)
            return {"reward": rewards.float()}

        found, hit = find_or_make(self.attempt, self.rewards, len(self.parts), judge, "rewards of the draws")
        self.source.release()
        return found["reward"], hit

    def _begin(self, which: int) -> Callable[[int], None]:
        """Return what reports a finished part of the first or the second pass."""
        num_parts, total = len(self.parts), PASSES * len(self.parts)
        if self._report is None:
            self._report = self.attempt.start_stage(Stage.DRAW, total=total, unit="parts")
        report = self._report
        return lambda number: report(which * num_parts + number + 1, total)
