"""What a preview starts from: a scoring as it lies in the cache, with the noise of the request on it.

Legend: N responses of all batches in the plan's order; matrices [B, M] of all batches lie row by row, end to end.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from app.domain.errors import InvalidInput, NotFound
from app.domain.preview.weights import PreviewJob, PreviewRequest
from worker.stages.noise import flip_labels, perturb_rewards
from worker.stages.scoring.cache import FlatScores, read_scores
from worker.stages.scoring.index import Index, read_index
from worker.stages.treatment import UNTREATED, Treatment
from worker.var.candidates import WeightChoices
from worker.var.certificate import TAU
from worker.var.rewards import FLAT, fit_length

MOST_KEPT, MOST_KEPT_BYTES = 4, 2 * 2**30


@dataclass(frozen=True)
class Kept:
    """A scoring as it was read. `rewards` None: they stand in the index, as `reward_source` (rating or preference) says."""

    index: Index
    logprobs: FlatScores
    rewards: FlatScores | None
    reward_source: str

    @cached_property
    def num_draws(self) -> int:
        """How many draws of the reference each prompt has among its responses."""
        return max(0, -int(self.index.response_N.min()))

    @property
    def num_bytes(self) -> int:
        parts = [self.logprobs.raw, *(vars(self.index).values()), *([self.rewards.raw] if self.rewards else [])]
        return sum(part.nbytes for part in parts if isinstance(part, Tensor))

    @cached_property
    def logprob(self) -> Tensor:
        """All of them, in the artifact's order; −inf for dropped pairs."""
        return self.logprobs.scores

    @cached_property
    def own_logprob_N(self) -> Tensor:
        return self._own(self.logprobs)

    @cached_property
    def own_reward_N(self) -> Tensor:
        return self.index.data_reward_N if self.rewards is None else self._own(self.rewards)

    def _own(self, scores: FlatScores) -> Tensor:
        return scores.raw[self.index.places] if scores.cross else scores.raw  # own pairs are never dropped


def find_broken_certificate(kept: Kept, lambda_: float) -> bool:
    """Return whether a pair that was dropped has a known reward that its certificate did not reckon with.

    A pass for reused rewards bounds each cross pair by the response's own reward; rewards that were asked for another time
    may lie above. Pairs that were never asked (NaN) can't be judged.
    """
    index, raw = kept.index, kept.logprobs.raw
    if kept.rewards is None or not kept.rewards.cross:
        return False
    dropped_D = (raw > 0).nonzero()[:, 0]
    start_B = torch.tensor([0, *index.sizes]).cumsum(0)[:-1]
    batch_D = torch.searchsorted(start_B, dropped_D, right=True) - 1
    row_D = (dropped_D - start_B[batch_D]) // index.num_responses_B[batch_D]
    first_B = index.num_prompts_B.long().cumsum(0) - index.num_prompts_B
    prompt_N = index.prompt_of_response
    own_N = kept.own_logprob_N.double() + kept.own_reward_N.double() / lambda_
    best_P = own_N.new_full((int(index.num_prompts_B.sum()),), -torch.inf).scatter_reduce(0, prompt_N, own_N, "amax")
    term_D = kept.rewards.raw[dropped_D].double() / lambda_ - raw[dropped_D].double()
    return bool((term_D > best_P[first_B[batch_D] + row_D] - TAU + 1).any())


@dataclass(frozen=True)
class Noisy:
    """A scoring as a run with this noise would see it. Cross rewards get their noise where they are looked up."""

    kept: Kept
    request: PreviewRequest
    preference_N: Tensor
    own_reward_N: Tensor
    noise_std: float  # of the noise on rewards, in the reward's unit
    treatment: Treatment = UNTREATED

    @cached_property
    def reward_mean(self) -> float:
        return float(self.own_reward_N.double().mean())

    @cached_property
    def reward_std(self) -> float:
        return float(self.own_reward_N.double().std(correction=0))

    def largest_reward(self, choices: WeightChoices) -> float:
        """Return the largest |r| of any response, as the weights see it."""
        centre, scale = (self.reward_mean, self.reward_std or 1.0) if choices.reward_norm == "zscore" else (0.0, 1.0)
        return float((self.own_reward_N.double() - centre).abs().max()) / scale

    @property
    def breaks_certificates(self) -> bool:
        """Whether rewards differ from those that an early stop was certified with."""
        return not torch.equal(self.own_reward_N, self.kept.own_reward_N)

    def perturb(self, reward: Tensor, prompt: Tensor, example: Tensor, response: Tensor, num_tokens: Tensor) -> Tensor:
        """Cross rewards with their noise, and without what length explains; see worker.stages.noise and treatment."""
        reward = perturb_rewards(reward, prompt, example, response, self.noise_std, self.request.noise_seed)
        return self.treatment.fit.take_out(reward, num_tokens)


def add_noise(kept: Kept, request: PreviewRequest) -> Noisy:
    """Return the noise of worker.stages.noise.add_noise and the treatment of worker.stages.treatment, on flat tensors."""
    index, clean_N = kept.index, kept.own_reward_N
    example_N = index.example_id_N
    preference_N = flip_labels(index.preference_N, example_N, request.label_flip_share, request.noise_seed)
    std = request.reward_std * float(clean_N.double().std(correction=0))
    reward_N = clean_N
    if kept.reward_source == "preference":  # the label is the reward: the two flip together
        reward_N = torch.where(preference_N == index.preference_N, clean_N, -clean_N)
    reward_N = perturb_rewards(reward_N, example_N, example_N, index.response_N.long(), std, request.noise_seed)
    fit = fit_length(reward_N, index.num_tokens_N) if request.length_control else FLAT
    treatment = Treatment(fit, request.per_prompt)
    reward_N = treatment.own(reward_N, index.num_tokens_N, index.prompt_of_response)
    return Noisy(kept, request, preference_N, reward_N, std, treatment)


class KeptScorings:
    """The last few scorings that were read, so that the next preview of one starts at once."""

    def __init__(self, most: int = MOST_KEPT, most_bytes: int = MOST_KEPT_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[tuple[str, str, str, str | None], Kept] = OrderedDict()

    def load(self, job: PreviewJob) -> Kept:
        """Return the job's scoring; raises NotFound when its files are gone, InvalidInput when they don't fit one another."""
        name = (job.scorings_dir, job.index_key, job.logprob_key, job.reward_key)
        kept = self._kept.pop(name, None) or _read(job)
        self._kept[name] = kept
        while len(self._kept) > 1 and (len(self._kept) > self._most or self._num_bytes() > self._most_bytes):
            self._kept.popitem(last=False)
        return replace(kept, reward_source=job.reward_source) if kept.reward_source != job.reward_source else kept

    def _num_bytes(self) -> int:
        return sum(kept.num_bytes for kept in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)


def _read(job: PreviewJob) -> Kept:
    folder = Path(job.scorings_dir)
    try:
        index = read_index(folder, job.index_key)
        logprobs = read_scores(folder, job.logprob_key)
        rewards = read_scores(folder, job.reward_key) if job.reward_key else None
    except FileNotFoundError as gone:
        raise NotFound(str(gone)) from gone
    for scores in (logprobs, *([rewards] if rewards else [])):
        if len(scores.raw) != (sum(index.sizes) if scores.cross else len(index.batch_N)):
            raise InvalidInput("The kept scores do not fit the scoring's index. Delete the scoring and make it again.")
    return Kept(index, logprobs, rewards, job.reward_source)
