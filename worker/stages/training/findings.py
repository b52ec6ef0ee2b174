"""Findings that the data shows before the first step, from the weighing of a whole run."""

from collections.abc import Hashable, Iterator, Sequence

from app.domain.events import FindingRaised
from app.domain.findings import diagnose_data, raise_finding
from app.domain.scoring import DrawsFacts, EnsembleCheck, describe_disagreement, describe_foreign
from worker.stages.examples import Prepared
from worker.stages.training.weights import Weighing, WeightedBatch, gather_own


def data_findings(weighing: Weighing, prepared: Prepared, held_out_share: float = 0.0) -> list[FindingRaised]:
    """Return what the rules of app.domain.findings say about rewards, λ, repetition, truncation and the held-out split."""
    return diagnose_data(
        rewards=weighing.own_rewards.tolist(),
        pairs=[pair for batch in weighing.batches for pair in _reward_pairs(batch)],
        lambda_=weighing.choices.lambda_,
        zscore=weighing.choices.reward_norm == "zscore",
        batches=_texts(weighing.batches),
        num_pairs=prepared.num_pairs,
        num_equal_pairs=prepared.num_equal_pairs,
        cut_prompts=prepared.notes.cut_prompts,
        cut_responses=prepared.notes.cut_responses,
        left_out=prepared.notes.tell_left_out(),
        num_train=len(prepared.train),
        num_held_out=len(prepared.held_out),
        held_out_share=held_out_share,
    )


def plan_findings(prepared: Prepared, held_out_share: float) -> list[FindingRaised]:
    """Return what can be said before training without any reward: truncation and the held-out split."""
    return diagnose_data(
        num_pairs=prepared.num_pairs,
        num_equal_pairs=prepared.num_equal_pairs,
        cut_prompts=prepared.notes.cut_prompts,
        cut_responses=prepared.notes.cut_responses,
        left_out=prepared.notes.tell_left_out(),
        num_train=len(prepared.train),
        num_held_out=len(prepared.held_out),
        held_out_share=held_out_share,
    )


def target_findings(weighing: Weighing) -> list[FindingRaised]:
    """Return that no λ gives the wanted effective sample size, with the λ that was taken instead."""
    if not weighing.unreached:
        return []
    why = (
        "the standard deviation of the rewards as the weights see them" if weighing.reward_std > 0 else "as all rewards are equal"
    )
    taken = f"λ is {weighing.choices.lambda_:.3g}, {why}."
    return [raise_finding("target_unreached", f"{weighing.unreached} {taken}")]


def origin_findings(draws: DrawsFacts) -> list[FindingRaised]:
    """Return that the data were written by another policy than the reference, where its own draws say so."""
    evidence = describe_foreign(draws.data_logprob, draws.draw_logprob, draws.gap, draws.gap_error)
    return [raise_finding("foreign_data", evidence)] if evidence else []


def ensemble_findings(ensemble: EnsembleCheck | None) -> list[FindingRaised]:
    """Return that several reward models contradict one another, where they do."""
    evidence = describe_disagreement(ensemble)
    return [raise_finding("reward_disagreement", evidence)] if evidence else []


def _reward_pairs(batch: WeightedBatch) -> Iterator[tuple[float, float]]:
    """(chosen, rejected) rewards of every such pair within an example."""
    rewards = iter(gather_own(batch.candidates.own_M, batch.candidates.reward_BM).tolist())
    for example in batch.examples:
        own = [(response.preference, next(rewards)) for response in example.responses]
        yield from ((a, b) for label_a, a in own if label_a == 1 for label_b, b in own if label_b == -1)


def _texts(batches: Sequence[WeightedBatch]) -> Iterator[tuple[list[Hashable], list[Hashable]]]:
    for batch in batches:
        of_data = [(example, r) for example in batch.examples for r in example.responses if r.number >= 0]
        prompts: list[Hashable] = [example.turns for example, _ in of_data]
        yield prompts, [response.content for _, response in of_data]
