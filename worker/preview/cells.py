"""The numbers of a preview: for one preset and batch size, the weights at every λ, with their means, histogram and extremes.

Legend: S batches of a stack, M responses, N responses of all batches in the plan's order.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from app.domain.events import FindingRaised
from app.domain.findings import diagnose_step
from app.domain.metrics import WEIGHT_EDGES
from app.domain.preview.weights import WANTED_ERROR, PreviewCell, PreviewResponse
from app.domain.weighting import Preset
from worker.preview.batches import BatchStack, Grouping
from worker.preview.partners import measure_partners
from worker.preview.scores import Noisy
from worker.preview.texts import Excerpts
from worker.var.candidates import WeightChoices
from worker.var.describe import describe_weighed
from worker.var.diagnostics import histogram
from worker.var.draws import draws_needed, partition_errors
from worker.var.stacks import effective_sample_sizes, log_mean, weigh
from worker.var.terms import make_terms

NUM_EXTREMES = 10


@dataclass
class WeightSums:
    """What adds up over the stacks at one λ. `weight_N` NaN: not in the loss; `log_weight_N`: before any rescaling."""

    lambda_: float
    weight_N: Tensor
    log_weight_N: Tensor
    log_scale: float = 0.0
    partner_share: float | None = None
    partition_error: float | None = None
    draws_needed: int | None = None
    prompt_share: float | None = None
    totals: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    bins: list[int] = field(default_factory=lambda: [0] * (len(WEIGHT_EDGES) + 1))
    largest_exponent: float = 0.0

    def add(self, part: BatchStack, found: dict[str, Tensor], weight_SM: Tensor, entering_SM: Tensor) -> None:
        for key, value_S in found.items():
            known_S = ~value_S.isnan()
            self.totals[key] = self.totals.get(key, 0.0) + float(value_S.nan_to_num(0.0).sum())
            self.counts[key] = self.counts.get(key, 0) + int(known_S.sum())
        self.largest_exponent = max(self.largest_exponent, float(found["weight/largest_exponent"].max()))
        entering = weight_SM[entering_SM]
        self.bins = [a + b for a, b in zip(self.bins, histogram(entering, WEIGHT_EDGES), strict=True)]
        self.weight_N[part.response_SM[entering_SM]] = entering

    def measure(self, grouping: Grouping, layout: str, *, rescaled: bool) -> None:
        """Tell what the weights of all batches say together: of the prompts, and of who meets whom."""
        counted_N = ~self.weight_N.isnan()
        prompt_C, weight_C = grouping.prompt_N[counted_N], self.weight_N[counted_N].double()
        num_C = torch.bincount(prompt_C).double()
        weight_P = (torch.zeros_like(num_C).index_add(0, prompt_C, weight_C) / num_C.clamp(min=1))[num_C > 0]
        self.prompt_share = float(effective_sample_sizes(weight_P[None])[0]) / max(1, len(weight_P))
        if layout != "whole":
            self.partner_share = measure_partners(self.log_weight_N, grouping, rescaled=rescaled)

    def measure_draws(self, noisy: Noisy, scale: float) -> None:
        """Tell how sure Z(x) is by the prompts' draws, and how many would do."""
        num_draws = noisy.kept.num_draws
        reward_PK = noisy.own_reward_N[noisy.kept.index.response_N < 0].view(-1, num_draws)
        error_P = partition_errors(reward_PK / (scale * self.lambda_))
        self.partition_error = float(error_P.square().mean().sqrt())
        self.draws_needed = draws_needed(error_P, num_draws, WANTED_ERROR)

    def metrics(self) -> dict[str, float]:
        """Means over the batches that have each metric."""
        return {key: total / self.counts[key] for key, total in self.totals.items() if self.counts[key]}

    def findings(self, others: Sequence[FindingRaised] = ()) -> list[FindingRaised]:
        """Return what the rules say of the means; of |r/λ| the largest of all counts."""
        found = diagnose_step({**self.metrics(), "weight/largest_exponent": self.largest_exponent})
        return [*found, *others]

    def extremes(self, *, largest: bool) -> list[int]:
        """Return the ten heaviest or lightest responses in the loss; among equals the first in the plan."""
        sign = -1.0 if largest else 1.0
        key_N = (sign * self.weight_N).nan_to_num(math.inf, math.inf, -math.inf)
        num = min(NUM_EXTREMES, int((~self.weight_N.isnan()).sum()))
        if num == 0:
            return []
        limit = key_N.kthvalue(num).values
        near = (key_N <= limit).nonzero()[:, 0]
        chosen: list[int] = near[key_N[near].sort(stable=True).indices[:num]].tolist()
        return chosen


@torch.no_grad()
def tally(
    noisy: Noisy, parts: Sequence[BatchStack], choices: WeightChoices, lambdas: Sequence[float], *, by_data: bool = False
) -> list[WeightSums]:
    """Return the weights of all batches at each λ; `by_data`: on one scale, that of the data set's mean weight."""
    num = len(noisy.own_reward_N)
    nothing_N = torch.full((num,), torch.nan)
    tallies = [WeightSums(lambda_, nothing_N.clone(), nothing_N.clone()) for lambda_ in lambdas]
    terms_of = [make_terms(part.stack, choices, noisy.reward_mean, noisy.reward_std) for part in parts]
    for part, terms in zip(parts, terms_of, strict=True):
        for sums in tallies:
            weighed = weigh(terms, sums.lambda_)
            sums.log_weight_N[part.response_SM[weighed.entering_SM]] = weighed.log_weight_SM[weighed.entering_SM].float()
    for sums in tallies if by_data else ():
        sums.log_scale = log_mean(sums.log_weight_N[~sums.log_weight_N.isnan()])
    for part, terms in zip(parts, terms_of, strict=True):
        for sums in tallies:
            weighed = replace(weigh(terms, sums.lambda_), log_scale=sums.log_scale)
            found = describe_weighed(weighed, weighed.weight_SM, part.preference_SM)
            sums.add(part, found, weighed.weight_SM, weighed.entering_SM)
    return tallies


@dataclass(frozen=True)
class CellNumbers:
    """A cell without its texts."""

    preset: Preset
    batch_size: int
    plans: int
    tally: WeightSums
    heaviest: list[int]
    lightest: list[int]
    findings: list[FindingRaised]

    def finish(self, noisy: Noisy, excerpts: Excerpts) -> PreviewCell:
        show = _shower(noisy, self.tally.weight_N, excerpts)
        return PreviewCell(
            preset=self.preset,
            lambda_=self.tally.lambda_,
            batch_size=self.batch_size,
            metrics=dict(self.tally.metrics()),
            histogram=self.tally.bins,
            findings=self.findings,
            prompt_ess_share=self.tally.prompt_share,
            partner_share=self.tally.partner_share,
            plans=self.plans,
            partition_error=self.tally.partition_error,
            draws_needed=self.tally.draws_needed,
            heaviest=[show(n) for n in self.heaviest],
            lightest=[show(n) for n in self.lightest],
        )


def draft(preset: Preset, batch_size: int, plans: int, one: WeightSums, others: Sequence[FindingRaised]) -> CellNumbers:
    """Return a cell of the preview, with the findings about its batches among its own."""
    heaviest, lightest = one.extremes(largest=True), one.extremes(largest=False)
    return CellNumbers(preset, batch_size, plans, one, heaviest, lightest, one.findings(others))


def _shower(noisy: Noisy, weight_N: Tensor, excerpts: Excerpts) -> Callable[[int], PreviewResponse]:
    index = noisy.kept.index

    def show(n: int) -> PreviewResponse:
        example_id, response = int(index.example_id_N[n]), int(index.response_N[n])
        prompt, content = excerpts.get((example_id, response), ("", ""))
        return PreviewResponse(
            example_id=example_id,
            response=response,
            preference=int(noisy.preference_N[n]) or None,
            num_tokens=int(index.num_tokens_N[n]),
            reward=float(noisy.own_reward_N[n]),
            weight=float(weight_N[n]),
            prompt=prompt,
            content=content,
        )

    return show
