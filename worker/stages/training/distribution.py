"""What each of several processes does of a batch, and the whole policy where it lies in shards.

Legend: M responses of a batch, R rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor

from worker.models.adapter import Body, LanguageModel
from worker.models.compiled import uncompiled
from worker.models.load import load_policy
from worker.models.lora import add_lora
from worker.models.sharding import gather_weights, shard
from worker.stages.attempt import AttemptContext
from worker.stages.batches import MicroBatch, split_batch
from worker.stages.examples import Encoded

Model = TypeVar("Model", bound=Body)


def share_batch(
    batch: Sequence[Encoded], enters_M: Tensor, micro_batch_size: int | None, model: LanguageModel
) -> list[MicroBatch]:
    """This process's micro-batches: whole prompts, so that all processes have about as many tokens.

    With sharded weights every forward pass is one of all processes: who has fewer micro-batches repeats one without weight.
    """
    ranks, packs = model.ranks, model.packs
    if ranks.is_alone:
        return split_batch(batch, enters_M, micro_batch_size, packs=packs)
    enters = enters_M.tolist()
    families, first = [], 0
    for index, example in enumerate(batch):
        chosen = [k for k in range(first, first + len(example.responses)) if enters[k]]
        if chosen:
            num_tokens = len(example.prompt_ids) + sum(len(example.responses[k - first].ids) for k in chosen)
            families.append((index, list(range(first, first + len(example.responses))), num_tokens))
        first += len(example.responses)
    shares = [replace(ranks, rank=rank).share([cost for _, _, cost in families]) for rank in range(ranks.size)]

    def split(share: Sequence[int]) -> list[MicroBatch]:
        response_S = torch.tensor([k for item in share for k in families[item][1]], dtype=torch.long)
        part = [batch[families[item][0]] for item in share]
        micros = split_batch(part, enters_M[response_S], micro_batch_size, packs=packs) if part else []
        return [replace(micro, response_R=response_S[micro.response_R]) for micro in micros]

    mine = split(shares[ranks.rank])
    if model.is_sharded and families:
        size = micro_batch_size or len(batch)
        most = max(-(-len(share) // size) for share in shares)
        filler = replace((mine or split([min(range(len(families)), key=lambda k: families[k][2])]))[0], share=0.0)
        mine += [filler] * (most - len(mine))
    return mine


def spread(attempt: AttemptContext, model: Model) -> Model:
    """Return the network as all processes of the attempt train it together: whole on each, or cut into shards."""
    model = replace(model, ranks=attempt.ranks)
    return shard(model) if attempt.recipe.training.sharding == "full" and not attempt.ranks.is_alone else model


def find_whole(attempt: AttemptContext, model: Model, folder: Path) -> Model:
    """Return the network in one piece, for the lead to evaluate or to write: itself, or, of a sharded policy, a copy made anew.

    All processes must call this; what the others get is not to be used.
    """
    if not model.is_sharded:
        return model
    recipe = attempt.recipe
    trained = gather_weights(model)
    if not attempt.ranks.is_lead:
        return model
    whole = load_policy(folder, dtype=recipe.policy.dtype, device=attempt.spec.device).language_model
    if recipe.policy.adaptation == "lora":
        whole = add_lora(whole, recipe.policy.lora, 0)
    with torch.no_grad():
        for name, parameter in whole.network.named_parameters():
            if name in trained:
                parameter.copy_(trained[name])
    return cast(Model, whole)


def judge_by_lead(
    attempt: AttemptContext, model: Model, folder: Path, judge: Callable[[Model, int], dict[str, float | None]]
) -> Callable[[int], dict[str, float | None]]:
    """`judge` on the whole network, by the lead alone while the others wait; these get no metrics."""

    def ask(step: int) -> dict[str, float | None]:
        whole = find_whole(attempt, model, folder)
        with uncompiled(model):
            return attempt.ranks.lead_alone(lambda: judge(whole, step)) or {}

    return ask
