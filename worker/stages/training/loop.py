"""Stage 3: the one training loop of all methods, with evaluations and checkpoints on the way.

One step = one batch of the objective (worker.stages.training.objectives), which makes the gradient and says what there is to
tell of it.
Everything that decides the next step is in the checkpoint or a function of seed and step, so a resumed run is the same run.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from app.domain.events import AttemptResumed, CheckpointSaved, FindingRaised, StepLogged, finite
from app.domain.findings import diagnose_step, find_divergence, find_gradient_clipped, raise_finding
from app.domain.recipe import Method
from app.domain.run import Stage
from app.system.files import sync
from worker.models.adapter import Body
from worker.models.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_newest,
    name_checkpoint,
    save_checkpoint,
    sweep,
)
from worker.running.failpoints import reach
from worker.running.failures import Diverged
from worker.running.stop import Stopped
from worker.stages.attempt import AttemptContext
from worker.stages.seeds import derive_seed
from worker.stages.training.keeping import kept_model, settle, weigh_up
from worker.stages.training.memory import MemoryWatch
from worker.stages.training.objectives import Objective, ObjectiveBatch
from worker.stages.training.optimizer import Optimizer, learning_rate_at
from worker.stages.training.progress import LOGS, Judge, Training, TrainingProgress, append_log, rewind_log

MOST_BAD_STEPS = 3  # diverging steps in a row before the attempt gives up
RECENT = 20  # steps whose metrics are kept for the findings
CLOCK_KEYS = frozenset({"step_seconds", "tokens_per_second", "peak_memory_bytes", "cost/seconds"})  # differ from run to run
WINDOW, NEEDED = 5, 3  # a finding is told when it held in 3 of the last 5 steps: one odd batch does not cry
SUMMARY_KEYS = (
    "loss", "weight/ess_share", "weight/spearman_length", "weight/spearman_reward",
    "dpo/accuracy", "dpo/margin", "pairs/accuracy", "pairs/margin", "kto/kl", "reward_model/accuracy",
    "online/reward_mean", "online/ess_share",
)  # fmt: skip


def find_checkpoint(attempt: AttemptContext) -> Checkpoint | None:
    """Return the checkpoint to go on from; says so in the journal, and names the damaged ones that were passed over."""
    checkpoint, damaged = load_newest(attempt.checkpoints_dir)
    if checkpoint is not None or attempt.spec.attempt > 1:
        name, step = (checkpoint.name, checkpoint.step) if checkpoint else ("", 0)
        attempt.emit(AttemptResumed(attempt=attempt.spec.attempt, step=step, checkpoint=name))
    for bad in damaged:
        attempt.emit(
            FindingRaised(
                name="damaged_checkpoint", severity="warning", title="A checkpoint was damaged",
                evidence=f"{bad.name}: {bad.reason}.",
                remedy=f"The run goes on from {checkpoint.name if checkpoint else 'the start'}. Check the disk if it recurs.",
                step=checkpoint.step if checkpoint else 0,
            )
        )  # fmt: skip
    sweep(attempt.checkpoints_dir, attempt.recipe.training.keep_checkpoints, damaged)  # what it removes has been told now
    if checkpoint is not None:
        attempt.raised.update(checkpoint.state["raised"])
    return checkpoint


def start(
    attempt: AttemptContext,
    model: Body,
    objective: Objective[Any, Any],
    evaluate: Judge | None,
    finish: Judge | None,
    num_steps: int,
    checkpoint: Checkpoint | None,
) -> Training:
    """Make the optimizer and put everything back to where the checkpoint left it."""
    network, recipe = model.network, attempt.recipe
    network.train()
    if recipe.policy.gradient_checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model = replace(model, packs=False)  # attention is run again in the backward pass, when the packing is forgotten
    trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
    optimizer = Optimizer(trainable, recipe.training, attempt.ranks)
    torch.manual_seed(derive_seed(recipe.training.seed, "train"))
    progress = TrainingProgress()
    if checkpoint is not None:
        optimizer.restore(checkpoint.tensors)
        torch.set_rng_state(checkpoint.tensors["random/cpu"])
        if model.device.type == "cuda" and "random/cuda" in checkpoint.tensors:
            torch.cuda.set_rng_state(checkpoint.tensors["random/cuda"])
        progress = TrainingProgress.revive(checkpoint.state["progress"])
        objective.restore(checkpoint.state.get("objective", {}))
    rewind_log(attempt, progress)
    memory = MemoryWatch(attempt, model, optimizer, objective)
    return Training(attempt, model, optimizer, objective, evaluate, finish, num_steps, progress, memory)


def train(training: Training) -> None:
    """Run to the last step, and leave the network as the run's model; raises Stopped when asked to stop (after saving, where that
    is due), Diverged when it can't go on.
    """
    try:
        _run_steps(training)
        settle(training)
    except Stopped as stopped:
        # It is raised between steps or within an evaluation, which is done again: the state is that of a finished step.
        if stopped.saves and training.progress.step > 0:
            save(training)
        raise


def _run_steps(training: Training) -> None:
    attempt, progress = training.attempt, training.progress
    pace = _Pace(progress.step, training.num_steps)
    attempt.start_stage(Stage.TRAIN, total=training.num_steps, unit="steps")
    while True:
        _stop_at_the_kept(training)
        if _evaluation_due(training):
            run_evaluation(training)
            training.memory.reset()
            if not training.is_over:
                attempt.start_stage(Stage.TRAIN, total=training.num_steps, unit="steps")
        finished = training.is_over
        if finished and not progress.is_finished:
            run_final(training)
        if finished or (progress.step > 0 and progress.step % attempt.recipe.training.checkpoint_every == 0):
            save(training)
        if finished:
            training.memory.tell_actual()
            return
        attempt.check()
        try:
            train_step(training, pace)
        except Diverged:
            if not training.keeps_best:
                raise
            progress.standing.stopped = f"the loss or its gradient was not finite, or exploded, {MOST_BAD_STEPS} steps in a row"


def _evaluation_due(training: Training) -> bool:
    step = training.progress.step
    due = step % training.eval_every == 0 or step in (training.num_steps, training.attempt.recipe.keep.step)
    return due and training.progress.evaluated_step < step and training.evaluate is not None


def run_evaluation(training: Training) -> None:
    """Evaluate now; the numbers go to the journal, to metrics.jsonl and to the summary."""
    progress = training.progress
    if training.evaluate is None:
        return
    metrics = training.evaluate(progress.step)
    progress.evaluated_step = progress.step
    _keep(training, "evaluation", metrics, progress.step)
    weigh_up(training, metrics)


def _stop_at_the_kept(training: Training) -> None:
    """Let training end where the recipe has named the step."""
    if training.progress.step == training.attempt.recipe.keep.step and not training.is_over:
        training.progress.standing.stopped = "the recipe keeps the model of this step"


def run_final(training: Training) -> None:
    """Judge the run's model on what nothing has read so far; done once in a run."""
    if training.finish is not None:
        with kept_model(training):
            _keep(training, "final", training.finish(training.kept_step), training.kept_step)
        training.memory.reset()
    training.progress.is_finished = True


def _keep(training: Training, kind: str, metrics: Mapping[str, float | None], step: int) -> None:
    training.progress.summary.update(metrics)
    append_log(training.attempt, {"kind": kind, "step": step, "metrics": metrics})


def train_step(training: Training, pace: "_Pace") -> None:
    """One optimizer step and its record."""
    attempt, progress, optimizer, objective = training.attempt, training.progress, training.optimizer, training.objective
    settings = attempt.recipe.training
    begun = time.perf_counter()
    batch = objective.batch_at(progress.step, training.model)
    started = time.perf_counter()
    reach("step.begun")
    done = objective.accumulate(training.model, batch)
    grad_norm = optimizer.grad_norm()
    values = torch.stack([value.float() for value in (done.loss, grad_norm, *done.metrics.values())])
    loss_value, norm_value, *rest = values.tolist()  # the step's only wait for the device
    rate = learning_rate_at(progress.step, training.num_steps, settings)
    described = dict(zip(done.metrics, rest, strict=True)) | objective.describe(batch)
    is_sound = find_divergence({"loss": loss_value, "grad_norm": norm_value, **described}, usual(training)) is None
    if is_sound and done.num_tokens > 0:
        optimizer.step(rate, grad_norm)
    else:  # where nothing enters the loss there is no gradient, or among several processes a sum of nothings
        optimizer.forget_gradients()
    progress.bad_steps = 0 if is_sound else progress.bad_steps + 1
    progress.step += 1
    reach("step.taken")
    seconds = time.perf_counter() - started
    progress.seconds += started - begun + seconds
    progress.tokens += done.num_tokens + objective.take_drawn()
    metrics = {
        "loss": loss_value, "learning_rate": rate, "grad_norm": norm_value, "step_seconds": seconds,
        "tokens_per_second": done.num_tokens / seconds, "peak_memory_bytes": float(training.memory.note()),
        "cost/tokens": float(progress.tokens), "cost/seconds": progress.seconds,
        **training.attempt.constants, **described,
    }  # fmt: skip
    record(training, batch, metrics, pace.seconds_left(progress.step))
    reach("step.recorded")
    if progress.bad_steps >= MOST_BAD_STEPS:
        raise Diverged(
            f"The loss or its gradient was not finite, or exploded, {MOST_BAD_STEPS} steps in a row up to step {progress.step}."
        )


def usual(training: Training) -> Sequence[Mapping[str, float | None]]:
    """Return the recent steps that the next is compared with; none where a loss far above the usual one is nothing odd."""
    return training.progress.recent if training.objective.is_steady else ()


def record(training: Training, batch: ObjectiveBatch, metrics: Mapping[str, float], seconds_left: float | None) -> None:
    """Report one step: the event, the line of metrics.jsonl, and the findings that have held long enough."""
    attempt, progress = training.attempt, training.progress
    epoch = progress.step / len(training.objective.batches)
    step = StepLogged.model_validate(
        {
            "step": progress.step, "num_steps": training.num_steps, "epoch": epoch, "batch": batch.index,
            "metrics": dict(metrics), "histogram": training.objective.histogram(batch), "seconds_left": seconds_left,
        }
    )  # fmt: skip
    attempt.emit(step)
    line = {"kind": "step", "step": step.step, "epoch": step.epoch, "batch": step.batch, "metrics": step.metrics}
    append_log(attempt, line | {"histogram": step.histogram})
    progress.summary.update({key: step.metrics[key] for key in SUMMARY_KEYS if key in step.metrics})
    found = diagnose_step(step.metrics, recent=usual(training)) + find_clipping(training, step.metrics)
    attempt.raise_findings(settled_findings(progress, found, training.num_steps))
    kept = {key: finite(value) for key, value in metrics.items() if key not in CLOCK_KEYS}
    progress.recent = [*progress.recent, kept][-RECENT:]


def find_clipping(training: Training, metrics: Mapping[str, float | None]) -> list[FindingRaised]:
    """Return the finding that most gradients are clipped, with what it does to weights that keep their size."""
    recipe = training.attempt.recipe
    norms = [norm for step in (*training.progress.recent, metrics) if (norm := step.get("grad_norm")) is not None]
    is_weighed = recipe.method is Method.VAR and recipe.online.every is None
    rescaled = recipe.weights.mean_one == "batch" or not is_weighed
    evidence = find_gradient_clipped(norms, recipe.training.grad_clip, rescaled=rescaled)
    return [raise_finding("gradient_clipped", evidence)] if evidence else []


def settled_findings(progress: TrainingProgress, found: Sequence[FindingRaised], num_steps: int) -> list[FindingRaised]:
    """Return the findings of this step that held in enough of the last steps; `divergence` is told at once."""
    now = {finding.name: finding for finding in found}
    settled = []
    for name in sorted({*progress.history, *now}):
        held = [*progress.history.get(name, []), int(name in now)][-WINDOW:]
        progress.history[name] = held
        if name in now and (name == "divergence" or sum(held) >= min(NEEDED, num_steps)):
            settled.append(now[name].model_copy(update={"step": progress.step}))
    return settled


def save(training: Training) -> None:
    """Write a checkpoint of this step, unless there is one, and announce it; older ones beyond `keep_checkpoints` go."""
    attempt, progress = training.attempt, training.progress
    if name_checkpoint(progress.step) in list_checkpoints(attempt.checkpoints_dir):
        return
    tensors = training.optimizer.save() | {"random/cpu": torch.get_rng_state()}
    if training.model.device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    if not attempt.ranks.is_lead:
        return
    attempt.spool.sync()
    for name in LOGS:
        if (attempt.artifacts_dir / name).exists():
            sync(attempt.artifacts_dir / name)
    state = {"progress": asdict(progress), "raised": sorted(attempt.raised), "objective": training.objective.save()}
    name, size_bytes = save_checkpoint(
        attempt.checkpoints_dir, progress.step, tensors, state, may_appear=attempt.refuse_superseded
    )
    attempt.emit(CheckpointSaved(step=progress.step, name=name, size_bytes=size_bytes))
    reach("checkpoint.recorded")
    sweep(attempt.checkpoints_dir, attempt.recipe.training.keep_checkpoints)
    reach("checkpoint.swept")


class _Pace:
    """How long the rest will take, from this attempt's own speed, evaluations and checkpoints included."""

    def __init__(self, step: int, num_steps: int) -> None:
        self._first, self._num_steps, self._started = step, num_steps, time.monotonic()

    def seconds_left(self, step: int) -> float | None:
        done = step - self._first
        return (time.monotonic() - self._started) / done * (self._num_steps - step) if done else None
