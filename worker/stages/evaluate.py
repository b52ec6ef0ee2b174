"""Evaluation on held-out prompts: answers of reference and policy side by side, rewards, win rate, KL, held-out loss.

The reference's answers are made once, before the first step, when policy and reference are the same weights.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.domain.events import ChatMessage, EvaluationLogged, SampleDrawn
from app.domain.findings import find_unfinished_answers, raise_finding, wilson_interval
from app.domain.run import Stage
from worker.models.adapter import LanguageModel
from worker.models.generate import Sampling, generate
from worker.models.prompts import PromptFormat
from worker.stages.attempt import AttemptContext
from worker.stages.batches import derive_seed, permute
from worker.stages.examples import Encoded, decode_answers
from worker.stages.prepare import Ground
from worker.stages.scoring.pairs import sequence_logprobs
from worker.stages.scoring.sources import ReferenceSource, RewardSource

LOSS_EXAMPLES = 64  # at least so many held-out examples (where there are as many) enter eval/loss


@dataclass(frozen=True)
class Answers:
    """One answer per held-out prompt; `rewards` is None when nothing judges, unfinished ones reached max_new_tokens."""

    ids: list[list[int]]
    texts: list[str]
    rewards: list[float] | None
    num_unfinished: int = 0

    @property
    def unfinished_share(self) -> float:
        return self.num_unfinished / max(1, len(self.ids))

    @property
    def mean_length(self) -> float:
        return sum(map(len, self.ids)) / max(1, len(self.ids))


@dataclass(frozen=True)
class HeldOut:
    """What stays the same over all evaluations of a run."""

    prompts: list[Encoded]
    loss_examples: list[Encoded]
    ground: Ground
    sampling: Sampling
    reference: Answers

    @property
    def is_empty(self) -> bool:
        return not self.prompts and not self.loss_examples


def set_up(attempt: AttemptContext, model: LanguageModel, ground: Ground) -> HeldOut:
    """Choose the prompts and let the reference (the untrained `model`) answer them, or take an earlier attempt's answers."""
    settings, held_out = attempt.recipe.evaluation, ground.prepared.held_out
    prompts = choose_prompts(held_out, settings.num_prompts, settings.seed_for("prompts"))
    sampling = Sampling(
        ground.lengths.max_new_tokens, settings.temperature, settings.top_p, derive_seed(settings.seed_for("draws"), "generate"),
        end_ids(model, ground.prompt_format), ground.prompt_format.is_ended,
    )  # fmt: skip
    loss_examples = list(held_out[: max(LOSS_EXAMPLES, settings.num_prompts)])
    path = attempt.checkpoints_dir / "reference.json"
    reference = _read_answers(path, len(prompts))
    if reference is None:
        ids = generate(model, [e.prompt_ids for e in prompts], sampling, attempt.stop.check)
        reference = judge(attempt, ground, prompts, ids, sampling)
        attempt.write_file(path, json.dumps(vars(reference)).encode())
    return HeldOut(prompts, loss_examples, ground, sampling, reference)


def choose_prompts(held_out: Sequence[Encoded], num_prompts: int, seed: int) -> list[Encoded]:
    """Return a fixed, seeded choice of different held-out prompts."""
    unique = list({example.turns: example for example in reversed(held_out)}.values())[::-1]
    return [unique[i] for i in permute(len(unique), derive_seed(seed, "prompts"))[:num_prompts]]


def end_ids(model: LanguageModel, prompt_format: PromptFormat) -> frozenset[int]:
    """Return the tokens that end an answer: what ends a turn, and those of the model's own generation settings."""
    declared = getattr(getattr(model.network, "generation_config", None), "eos_token_id", None)
    listed = declared if isinstance(declared, list) else [declared]
    return frozenset(token for token in (*prompt_format.end_ids, *listed) if token is not None)


def evaluate(attempt: AttemptContext, model: LanguageModel, held_out: HeldOut, step: int) -> dict[str, float | None]:
    """Evaluate the policy as it is and report it: samples, then metrics (keys `eval/…`). Training's random state is untouched."""
    attempt.start_stage(Stage.EVALUATE, total=len(held_out.prompts), unit="prompts")
    metrics: dict[str, float] = {}
    if held_out.loss_examples:
        metrics["eval/loss"] = measure_loss(model, held_out.loss_examples)
    if held_out.prompts:
        answers = held_out.reference
        if step > 0:
            ids = generate(model, [e.prompt_ids for e in held_out.prompts], held_out.sampling, attempt.stop.check)
            answers = judge(attempt, held_out.ground, held_out.prompts, ids, held_out.sampling)
        metrics |= compare(answers, held_out.reference)
        metrics["eval/kl"] = measure_kl(attempt, model, held_out, answers) if step > 0 else 0.0
        if step > 0:
            _report_samples(attempt, held_out, answers, step)
            if evidence := find_unfinished_answers(answers.num_unfinished, len(answers.ids)):
                attempt.raise_findings([raise_finding("unfinished_answers", evidence, step)])
    evaluation = EvaluationLogged.model_validate({"step": step, "metrics": metrics})
    attempt.emit(evaluation)
    return evaluation.metrics


def judge(
    attempt: AttemptContext, ground: Ground, prompts: Sequence[Encoded], ids: list[list[int]], sampling: Sampling
) -> Answers:
    """Texts and rewards of answers; the judging model is loaded for this and released again."""
    texts = decode_answers(ground.prompt_format, prompts, ids)
    unfinished = sum(not answer_ids or not sampling.ends(answer_ids) for answer_ids in ids)
    judging = attempt.spec.judge or attempt.spec.reward
    if judging is None or not prompts:
        return Answers(ids, texts, None, unfinished)
    return Answers(ids, texts, RewardSource(attempt, ground, judging).score_answers(prompts, texts), unfinished)


def compare(policy: Answers, reference: Answers) -> dict[str, float]:
    """Rewards, win rate (ties count half) with its 95 % Wilson interval, lengths, and how many answers came to no end."""
    metrics = {
        "eval/length_policy": policy.mean_length,
        "eval/length_reference": reference.mean_length,
        "eval/unfinished_policy": policy.unfinished_share,
        "eval/unfinished_reference": reference.unfinished_share,
    }
    if policy.rewards is None or reference.rewards is None:
        return metrics
    num = len(policy.rewards)
    wins = sum(1.0 if p > r else 0.5 if p == r else 0.0 for p, r in zip(policy.rewards, reference.rewards, strict=True))
    low, high = wilson_interval(wins, num)
    mean_policy, mean_reference = sum(policy.rewards) / num, sum(reference.rewards) / num
    return metrics | {
        "eval/reward_policy": mean_policy,
        "eval/reward_reference": mean_reference,
        "eval/reward_gain": mean_policy - mean_reference,
        "eval/win_rate": wins / num,
        "eval/win_rate_low": low,
        "eval/win_rate_high": high,
    }


def measure_kl(attempt: AttemptContext, model: LanguageModel, held_out: HeldOut, answers: Answers) -> float:
    """KL(π_θ‖π_ref) per response: the mean over the policy's own answers y of log π_θ(y|x) − log π_ref(y|x), in nats."""
    pairs = [(e.prompt_ids, ids) for e, ids in zip(held_out.prompts, answers.ids, strict=True) if ids]
    if not pairs:
        return 0.0
    reference = ReferenceSource(attempt, held_out.ground).score_answers(model, pairs)
    return float(sequence_logprobs(model, pairs).sum() - reference.sum()) / len(held_out.prompts)


def measure_loss(model: LanguageModel, examples: Sequence[Encoded]) -> float:
    """Mean −log π_θ per token of each example's best response (the chosen one, or the best rated)."""
    best = [max(e.responses, key=lambda r: (r.preference or 0, r.rating or 0.0)) for e in examples]
    pairs = [(e.prompt_before(response), response.ids) for e, response in zip(examples, best, strict=True)]
    return -float(sequence_logprobs(model, pairs).sum()) / sum(len(ids) for _, ids in pairs)


def _report_samples(attempt: AttemptContext, held_out: HeldOut, answers: Answers, step: int) -> None:
    """All samples go to samples.jsonl, the first few to the page as well."""
    reference = held_out.reference
    attempt.refuse_superseded()
    with (attempt.artifacts_dir / "samples.jsonl").open("a") as file:
        for index, example in enumerate(held_out.prompts):
            sample = SampleDrawn(
                step=step,
                index=index,
                example_id=example.example_id,
                prompt=[ChatMessage(role=role, content=content) for role, content, _ in example.turns],
                reference=reference.texts[index],
                policy=answers.texts[index],
                reference_reward=None if reference.rewards is None else reference.rewards[index],
                policy_reward=None if answers.rewards is None else answers.rewards[index],
            )
            file.write(json.dumps(sample.model_dump(mode="json", exclude={"kind"}), ensure_ascii=False) + "\n")
            if index < attempt.recipe.evaluation.num_samples_shown:
                attempt.emit(sample)


def _read_answers(path: Path, num_prompts: int) -> Answers | None:
    """Return the answers an earlier attempt kept, or None."""
    try:
        answers = Answers(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return answers if len(answers.ids) == num_prompts else None
