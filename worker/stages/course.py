"""The course of an attempt: prepare > score > train (with evaluations) > artifacts."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import disable_progress_bars
from torch import Tensor
from transformers.utils import logging as transformers_logging

from app.domain.jobs import RunSpec
from app.domain.run import RunKind
from worker.models.adapter import LanguageModel, add_lora
from worker.spool import Spool
from worker.stages import train as training_stage
from worker.stages.attempt import Attempt
from worker.stages.batches import count_steps, derive_seed
from worker.stages.evaluate import set_up
from worker.stages.findings import data_findings
from worker.stages.ground import Ground, lay_ground
from worker.stages.score_pass import load_reference, refuse_inverted, score_all, summarize
from worker.stages.weigh import Weighing, save_weights, weigh
from worker.stop import StopSignals


def run_course(spec: RunSpec, spool: Spool, stop: StopSignals) -> dict[str, float | None]:
    """Run the whole attempt and return its summary; raises Stopped, StudioError, or what a library raises."""
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if spec.num_threads:
        torch.set_num_threads(spec.num_threads)
    attempt = Attempt(spec, spool, stop)
    attempt.artifacts_dir.mkdir(parents=True, exist_ok=True)
    attempt.checkpoints_dir.mkdir(parents=True, exist_ok=True)
    recipe = json.dumps(spec.recipe.to_dict(), indent=2, ensure_ascii=False).encode()
    attempt.write_artifact("recipe.json", "The recipe of this run", recipe)

    ground = lay_ground(attempt)
    scores = score_all(attempt, ground)
    if spec.kind is RunKind.SCORING:
        return summarize(scores.facts)
    if scores.facts is not None:
        refuse_inverted(spec.recipe, scores.facts.check)
    model = scores.policy or load_reference(attempt, ground)
    checkpoint = training_stage.find_checkpoint(attempt)
    weighing = make_weights(attempt, ground, scores.logprobs, scores.rewards)
    held_out = set_up(attempt, model, ground.prepared.held_out, ground.prompt_format, ground.lengths, ground.policy_folder)
    if spec.recipe.policy.adaptation == "lora":
        model = add_lora(model, spec.recipe.policy.lora, derive_seed(spec.recipe.training.seed, "lora"))
    settings = spec.recipe.training
    num_steps = count_steps(len(ground.batches), settings.epochs, settings.steps)
    training = training_stage.start(attempt, model, weighing, held_out, num_steps, checkpoint)
    training_stage.train(training)
    write_artifacts(attempt, model, ground)
    return training.progress.summary


def make_weights(attempt: Attempt, ground: Ground, logprobs: list[Tensor], rewards: list[Tensor]) -> Weighing:
    """Weights of every batch, written to weights.parquet, with the findings that can be told before the first step."""
    settings = attempt.recipe.weights
    weighing = weigh(ground.batches, logprobs, rewards, settings)
    if settings.target_ess is not None:
        attempt.log(f"lambda = {weighing.choices.lambda_:.6g} gives the wanted effective share {settings.target_ess:g}.")
    attempt.raise_findings(data_findings(weighing, ground.prepared, attempt.recipe.evaluation.share))
    save_weights(attempt.artifacts_dir / "weights.parquet", weighing)
    attempt.announce("weights.parquet", "Reference log-probability, reward and weight of every response")
    return weighing


def write_artifacts(attempt: Attempt, model: LanguageModel, ground: Ground) -> None:
    """What a user takes home: the policy, the adapter, metrics and samples."""
    network = model.network
    if model.lora is not None:
        lora = model.lora
        lora.peft_config["default"].base_model_name_or_path = attempt.recipe.policy.model
        attempt.write_folder("adapter", "The LoRA adapter", lambda path: lora.save_pretrained(path, save_embedding_layers=False))
        network = lora.merge_and_unload()

    def write(path: Path) -> None:
        _save_network(network, path)
        ground.prompt_format.tokenizer.save_pretrained(path)

    attempt.write_folder("model", "The trained policy", write)
    attempt.announce("metrics.jsonl", "Every metric of every step")
    attempt.announce("samples.jsonl", "All answers to the held-out prompts")


def _save_network(network: Any, path: Path) -> None:
    try:
        network.save_pretrained(path)
    except ValueError:
        # Some published models carry generation settings that their own library refuses to save again.
        network.generation_config = type(network.generation_config)()
        network.save_pretrained(path)
