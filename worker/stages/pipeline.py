"""The course of an attempt: prepare > score > train (with evaluations) > artifacts; or answer > judge."""

import json
from functools import partial

import torch
from huggingface_hub.utils import disable_progress_bars
from transformers.utils import logging as transformers_logging

from app.domain.answering.job import AnswersSpec
from app.domain.jobs import RunSpec
from app.domain.recipe import Method
from app.domain.run import RunKind
from app.domain.weighting import refuse_tiny
from worker.models.lora import refuse_targets
from worker.models.parallel import ALONE, Ranks, require_device
from worker.running.spool import Spool
from worker.running.stop import StopSignals
from worker.stages.answering.stage import answer_and_judge
from worker.stages.attempt import AttemptContext
from worker.stages.drawing.mixed import add_draws
from worker.stages.job import JobContext
from worker.stages.prepare import lay_ground
from worker.stages.scoring.stage import refuse_inverted, score_all, summarize
from worker.stages.training.methods import refuse_missing, train_policy, train_reward_model


def run_course(spec: RunSpec | AnswersSpec, spool: Spool, stop: StopSignals, ranks: Ranks = ALONE) -> dict[str, float | None]:
    """Run the whole attempt and return its summary; raises Stopped, StudioError, or what a library raises.

    Of several processes the lead scores while the others wait; they find its scores in the cache then.
    """
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    torch.set_flush_denormal(True)  # tiny weights make gradients of numbers that a processor takes up to 160 times longer for
    require_device(spec.device)
    if spec.num_threads:
        torch.set_num_threads(spec.num_threads)
    if isinstance(spec, AnswersSpec):
        return answer_and_judge(JobContext(spec, spool, stop), spec)
    return run_recipe(AttemptContext(spec, spool, stop, ranks))


def run_recipe(attempt: AttemptContext) -> dict[str, float | None]:
    """Run the stages of a recipe, as far as the kind of run goes."""
    spec, ranks = attempt.spec, attempt.ranks
    attempt.artifacts_dir.mkdir(parents=True, exist_ok=True)
    attempt.checkpoints_dir.mkdir(parents=True, exist_ok=True)
    if attempt.ranks.is_lead:
        attempt.sweep_leftovers()
    recipe = json.dumps(spec.recipe.to_dict(), indent=2, ensure_ascii=False).encode()
    attempt.write_artifact("recipe.json", "The recipe of this run", recipe)

    refuse_tiny(spec.recipe.weights.lambda_, spec.recipe.scoring.smallest_lambda)
    ground = lay_ground(attempt)
    if spec.kind is RunKind.TRAINING:
        refuse_missing(spec.recipe, ground.batches, len(ground.prepared.held_out))
        if spec.recipe.method is Method.REWARD_MODEL:
            return train_reward_model(attempt, ground)
        if spec.recipe.policy.adaptation == "lora":
            refuse_targets(ground.policy_folder, spec.recipe.policy.lora)
    with ranks.lead_first():
        scores = score_all(attempt, ground, partial(add_draws, attempt, ground))
    if spec.kind is RunKind.SCORING:
        return summarize(scores.facts)
    if scores.facts is not None:
        refuse_inverted(spec.recipe, scores.facts.check)
    return train_policy(attempt, ground, scores)
