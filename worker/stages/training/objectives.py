"""What each method asks of a step: its batch, the gradient on it, and what is told of it.

The loop itself is worker.stages.training.loop. Everything about a batch but the policy is known before the first step, or
(worker.stages.training.online) made when its round begins.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from app.domain.training.settings import TrainingSettings
from app.domain.weighting import WeightSettings
from worker.models.adapter import Body, LanguageModel
from worker.stages.batches import order_epoch
from worker.stages.examples import Encoded
from worker.stages.scoring.pairs import own_prompts
from worker.stages.training.gradients import (
    LabelledBatch,
    PairedBatch,
    Pass,
    PlainBatch,
    TextBatch,
    accumulate_labelled,
    accumulate_pairs,
    accumulate_preferences,
    accumulate_weighted,
)
from worker.stages.training.weights import Weighing, WeightedBatch
from worker.var.loss import token_coefficients
from worker.var.preferences import PairLoss


class ObjectiveBatch(Protocol):
    @property
    def index(self) -> int:
        """Place in the run's batch plan."""


B = TypeVar("B", bound=ObjectiveBatch)
N = TypeVar("N", bound=Body)


@dataclass
class Objective(ABC, Generic[N, B]):
    """One method on the batches of a run. `is_steady`: its loss keeps its size, so that one far larger is a divergence."""

    batches: Sequence[B]
    training: TrainingSettings
    is_steady = True

    def batch_at(self, step: int, model: N) -> B:
        """Return the batch of the step that follows `step` finished ones, with the model as it then is."""
        return self.data_at(step)

    def data_at(self, step: int) -> B:
        """Return the data's batch of that step."""
        epoch, place = divmod(step, len(self.batches))
        return self.batches[_cached_order(len(self.batches), self.training.seed, epoch)[place]]

    @abstractmethod
    def accumulate(self, model: N, batch: B) -> Pass:
        """Forward and backward over the batch: gradients are added to the parameters'."""

    def describe(self, batch: B) -> dict[str, float]:
        """Metrics of the batch that don't depend on the policy."""
        return {}

    def histogram(self, batch: B) -> list[int]:
        """Return the weights' counts over app.domain.metrics.WEIGHT_EDGES; empty for methods without weights."""
        return []

    def take_drawn(self) -> int:
        """Return how many tokens the policy has drawn to train on since this was asked last."""
        return 0

    def save(self) -> dict[str, Any]:
        """Return what a checkpoint must hold beside weights and step, as JSON-ready values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `save` gave."""


@dataclass
class PlainObjective(Objective[LanguageModel, PlainBatch]):
    """Supervised fine-tuning: every response that enters the loss weighs 1."""

    def accumulate(self, model: LanguageModel, batch: PlainBatch) -> Pass:
        return accumulate_weighted(model, batch, self.training.micro_batch_size)


@dataclass
class WeightedObjective(Objective[LanguageModel, WeightedBatch]):
    """VAR: fixed weights, found from the scores."""

    weighing: Weighing

    def accumulate(self, model: LanguageModel, batch: WeightedBatch) -> Pass:
        return accumulate_weighted(model, batch, self.training.micro_batch_size)

    def describe(self, batch: WeightedBatch) -> dict[str, float]:
        return self.weighing.describe(batch)

    def histogram(self, batch: WeightedBatch) -> list[int]:
        return self.weighing.histogram(batch)


@dataclass
class PairedObjective(Objective[LanguageModel, PairedBatch]):
    """A loss on pairs. It falls towards 0, where one odd pair is a hundredfold: no size is a divergence."""

    loss: PairLoss
    prefix: str
    is_steady = False

    def accumulate(self, model: LanguageModel, batch: PairedBatch) -> Pass:
        return accumulate_preferences(model, batch, self.training.micro_batch_size, self.loss, self.prefix)


@dataclass
class LabelledObjective(Objective[LanguageModel, LabelledBatch]):
    """KTO. Its loss lies between 0 and the larger of the two weights."""

    beta: float
    weights: tuple[float, float]  # of desirable and of undesirable responses

    def accumulate(self, model: LanguageModel, batch: LabelledBatch) -> Pass:
        return accumulate_labelled(model, batch, self.training.micro_batch_size, self.beta, self.weights)


@dataclass
class RewardObjective(Objective[Body, TextBatch]):
    """A Bradley-Terry reward model; of its loss the same holds as of those on pairs."""

    is_steady = False

    def accumulate(self, model: Body, batch: TextBatch) -> Pass:
        return accumulate_pairs(model, batch, self.training.micro_batch_size)


def plain_batches(batches: Sequence[Sequence[Encoded]], weights: WeightSettings) -> list[PlainBatch]:
    """Batches for supervised fine-tuning on the chosen responses or on all; `loss_norm` as in VAR."""
    made = []
    for index, batch in enumerate(batches):
        responses = [response for example in batch for response in example.responses]
        enters_M = torch.tensor([weights.responses == "both" or response.preference == 1 for response in responses])
        num_tokens_M = torch.tensor([len(response.ids) for response in responses])
        ones_M = torch.ones(len(responses))
        coefficient_M = token_coefficients(ones_M, num_tokens_M, weights.loss_norm, enters_M=enters_M)
        made.append(PlainBatch(index, batch, enters_M, coefficient_M))
    return made


def paired_batches(batches: Sequence[Sequence[Encoded]], logprobs: Sequence[Tensor]) -> list[PairedBatch]:
    """Batches for losses on pairs; `logprobs`: log π_ref of every batch, [B, M], of which own pairs are read."""
    made = []
    for index, (batch, logprob_BM) in enumerate(zip(batches, logprobs, strict=True)):
        own_M = torch.tensor([i for i, example in enumerate(batch) for _ in example.responses])
        num_tokens_M = torch.tensor([len(response.ids) for example in batch for response in example.responses])
        made.append(PairedBatch(index, batch, *find_pairs(batch), logprob_BM.gather(0, own_M[None])[0], num_tokens_M))
    return made


def labelled_batches(batches: Sequence[Sequence[Encoded]], logprobs: Sequence[Tensor]) -> list[LabelledBatch]:
    """Batches for KTO; of `logprobs`, [B, M] each, own pairs are read and each prompt with the first labelled response of
    the one before.
    """
    made = []
    for index, (batch, logprob_BM) in enumerate(zip(batches, logprobs, strict=True)):
        sign_M = torch.tensor([response.preference or 0 for example in batch for response in example.responses])
        own_M = own_prompts(batch)
        firsts = {int(own_M[j]): int(j) for j in reversed((sign_M != 0).nonzero()[:, 0].tolist())}
        prompts = sorted(firsts)
        strange, places = [], []
        for i, other in zip(prompts, prompts[-1:] + prompts[:-1], strict=True) if len(prompts) > 1 else ():
            response = batch[other].responses[firsts[other] - int((own_M < other).sum())]
            strange.append(replace(batch[i], responses=(response,)))
            places.append((i, firsts[other]))
        strange_B = torch.tensor([float(logprob_BM[place]) for place in places])
        made.append(LabelledBatch(index, batch, sign_M, logprob_BM.gather(0, own_M[None])[0], strange, strange_B))
    return made


def find_pairs(batch: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """chosen_P, rejected_P: every chosen response with every rejected one of its example, as indices of the batch's responses."""
    pairs, first = [], 0
    for example in batch:
        labels = [response.preference for response in example.responses]
        chosen = [first + k for k, label in enumerate(labels) if label == 1]
        rejected = [first + k for k, label in enumerate(labels) if label == -1]
        pairs += [(c, r) for c in chosen for r in rejected]
        first += len(labels)
    chosen_P, rejected_P = torch.tensor(pairs, dtype=torch.long).view(-1, 2).unbind(1)
    return chosen_P, rejected_P


@lru_cache(maxsize=2)
def _cached_order(num_batches: int, seed: int, epoch: int) -> list[int]:
    return order_epoch(num_batches, seed, epoch)
