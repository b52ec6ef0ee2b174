"""K answers of the reference to every training prompt, made once, with their log π_ref and their rewards.

They are what Ẑ(x) is the mean of (worker.var.draws), so they are drawn from π_ref itself: temperature 1, all tokens. The random
numbers of an answer come from the seed, its prompt and its number alone. The key covers prompts, model and sampling, but
neither batches nor λ: a second run, another λ and a sweep find them, and a larger K adds to the draws that there are
(worker.stages.drawing.layers). One model at a time, as in scoring.
Legend: P different prompts, N = P·K answers, prompt by prompt.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from app.domain.answering.layout import prompts_per_part
from app.domain.errors import ModelInvalid
from app.domain.run import Stage
from worker.models.generate import Sampling, generate
from worker.models.load import context_window, hash_tokenizer, load_config
from worker.stages.attempt import AttemptContext
from worker.stages.drawing.kept import Artifact, Tensors, find_or_make
from worker.stages.drawing.layers import Layer, find_layers, merge, merge_lists, split_ids
from worker.stages.evaluation.answers import end_ids
from worker.stages.evaluation.likelihoods import measure_tokens
from worker.stages.examples import Encoded, EncodedResponse, decode_answers
from worker.stages.prepare import Ground
from worker.stages.scoring.ensemble import RewardModels
from worker.stages.scoring.sources import ReferenceSource, RewardSource
from worker.stages.seeds import derive_seed
from worker.var.ensemble import EnsembleScale


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


def make_draws(attempt: AttemptContext, ground: Ground, reference: ReferenceSource, scale: EnsembleScale | None = None) -> Draws:
    """Return the draws to all training prompts, found or made. Raises ModelInvalid for a reward that is not finite."""
    return Drawing(attempt, ground, reference, scale).make()


class Drawing:
    """The making of a run's draws."""

    def __init__(
        self, attempt: AttemptContext, ground: Ground, reference: ReferenceSource, scale: EnsembleScale | None = None
    ) -> None:
        self.attempt, self.ground, self.settings = attempt, ground, attempt.recipe.draws
        self.prompts = {name_prompt(example): example for example in reversed(ground.prepared.train)}
        self.prompts = dict(reversed(self.prompts.items()))  # of equal prompts the first, in the data's order
        self.names = list(self.prompts)
        self.reference, self.models = reference, RewardModels(attempt, ground, scale)
        window = context_window(load_config(ground.policy_folder))
        longest = self.settings.max_new_tokens
        self.limit = longest if window is None else max(1, min(longest, window - ground.lengths.max_prompt))
        self.layers = find_layers(Path(attempt.spec.scorings_dir), self.facts, self.settings.num_draws)
        self._report: Callable[[int, int], None] | None = None
        self._done = 0

    def make(self) -> Draws:
        num_draws, num_prompts, hits = self.settings.num_draws, len(self.prompts), []
        answered, rewarded, keys = [], [], []
        for layer in self.layers:
            answers, hit = find_or_make(
                self.attempt, layer.artifact, self._count_parts(layer), Answering(self, layer).make, "draws of the reference"
            )
            answered.append(answers)
            keys.append(layer.artifact.key)
            hits.append(hit)
        self._tell_reuse(hits)
        ids = [split_ids(answers) for answers in answered]
        texts = [self._decode(layer, part) for layer, part in zip(self.layers, ids, strict=True)]
        for layer, part in zip(self.layers, texts, strict=True):
            rewards, made, hit = self._find_rewards(layer, part)
            rewarded.append(rewards)
            keys += made
            hits.append(hit)
        finished_N, logprob_N = (
            merge([one[name] for one in answered], self.layers, num_draws) for name in ("finished", "logprob")
        )
        hit = all(hits)
        if hit:
            self.attempt.log(
                f"The {num_prompts * num_draws} draws of the reference with their rewards were made before and are reused."
            )
        return Draws(
            num_draws, {name: k for k, name in enumerate(self.names)}, merge_lists(ids, self.layers, num_draws),
            merge_lists(texts, self.layers, num_draws), finished_N.bool(), logprob_N, merge(rewarded, self.layers, num_draws),
            tuple(keys), hit,
        )  # fmt: skip

    @cached_property
    def facts(self) -> dict[str, str]:
        """What the answers depend on, but for how many there are."""
        facts = self.reference.model_facts | {
            "tokenizer": hash_tokenizer(self.ground.policy_folder),
            "format": "chat template" if self.ground.prompt_format.chat else "plain turns",
            "max_new_tokens": str(self.limit),
            "seed": str(self.settings.seed),
        }
        return {**facts, "prompts": hashlib.sha256("".join(self.prompts).encode()).hexdigest()}

    def ask(self, layer: Layer, number: int) -> list[tuple[str, int]]:
        """Return the draws of a part: name of the prompt, and number of the draw."""
        size = self.size_of_part(layer)
        names = self.names[number * size : (number + 1) * size]
        return [(name, layer.first + k) for name in names for k in range(layer.count)]

    def size_of_part(self, layer: Layer) -> int:
        """Return how many prompts each part of a layer has; the last one may have fewer."""
        return prompts_per_part(layer.count, self.limit)

    def begin(self) -> Callable[[], None]:
        """Return what reports one more finished part of the answers or of a model's rewards."""
        total = (1 + len(self.models.members)) * sum(map(self._count_parts, self.layers))
        if self._report is None:
            self._report = self.attempt.start_stage(Stage.DRAW, total=total, unit="parts")
        report = self._report

        def progress() -> None:
            self._done += 1
            report(self._done, total)

        return progress

    def _count_parts(self, layer: Layer) -> int:
        return -(-len(self.names) // self.size_of_part(layer))

    def _decode(self, layer: Layer, ids: Sequence["array[int]"]) -> list[str]:
        asked = [self.prompts[name] for name in self.names for _ in range(layer.count)]
        return decode_answers(self.ground.prompt_format, asked, ids)

    def _find_rewards(self, layer: Layer, texts: Sequence[str]) -> tuple[Tensor, list[str], bool]:
        """Return the rewards of a layer's answers, the keys of what is kept of them, and whether all was there; the reference
        makes room for the reward models.
        """
        found, keys, hits = [], [], []
        for number, source in enumerate(self.models.members):
            artifact = Artifact(
                "draw_rewards", "rewards.safetensors", {**source.model_facts, "draws": layer.artifact.key}, source.model_facts
            )
            judging = Judging(self, layer, source, texts)
            part, hit = find_or_make(
                self.attempt, artifact, self._count_parts(layer), judging.make, f"{self.models.name(number)} of the draws"
            )
            source.release()
            found.append(part["reward"])
            keys.append(artifact.key)
            hits.append(hit)
        return self.models.join(found)[0], keys, all(hits)

    def _tell_reuse(self, hits: Sequence[bool]) -> None:
        num_kept = sum(layer.count for layer, hit in zip(self.layers, hits, strict=True) if hit)
        if num_kept and not all(hits):
            num = self.settings.num_draws
            self.attempt.log(
                f"{num_kept} of {num} draws of each prompt were made before and are kept: {num - num_kept} were added."
            )


@dataclass(frozen=True)
class Answering:
    """The reference's answers of a layer, part by part."""

    drawing: Drawing
    layer: Layer

    def make(self, number: int) -> Tensors:
        """Let the reference answer the prompts of a part."""
        drawing, progress = self.drawing, self.drawing.begin()
        model, check, prompt_format = drawing.reference.model, drawing.attempt.stop.check, drawing.ground.prompt_format
        wanted = drawing.ask(self.layer, number)
        asked = [drawing.prompts[name].prompt_ids for name, _ in wanted]
        seeds = [derive_seed(drawing.settings.seed, "draw", name, k) for name, k in wanted]
        sampling = Sampling(drawing.limit, 1.0, 1.0, 0, end_ids(model, prompt_format), prompt_format.is_ended)
        drawn = generate(model, asked, sampling, check, seeds)
        logprobs = measure_tokens(model, list(zip(asked, drawn, strict=True)), check)
        progress()
        return {
            "ids": torch.tensor([token for ids in drawn for token in ids], dtype=torch.int32),
            "num_tokens": torch.tensor([len(ids) for ids in drawn], dtype=torch.int32),
            "finished": torch.tensor([bool(ids) and sampling.ends(ids) for ids in drawn], dtype=torch.uint8),
            "logprob": torch.tensor([sum(values) for values in logprobs], dtype=torch.float32),
        }


@dataclass(frozen=True)
class Judging:
    """A reward model's rewards of a layer's answers, part by part."""

    drawing: Drawing
    layer: Layer
    source: RewardSource
    texts: Sequence[str]

    def make(self, number: int) -> Tensors:
        """Ask the model about the answers of a part. Raises ModelInvalid for a reward that is not finite."""
        drawing, progress = self.drawing, self.drawing.begin()
        drawing.reference.release()
        before = number * drawing.size_of_part(self.layer) * self.layer.count
        asked = [drawing.prompts[name] for name, _ in drawing.ask(self.layer, number)]
        rewards = torch.tensor(self.source.score_texts(asked, self.texts[before : before + len(asked)]))
        if not bool(rewards.isfinite().all()):
            raise ModelInvalid("The reward model gives a draw a reward that is not finite. Try reward.dtype float32.")
        progress()
        return {"reward": rewards.float()}
