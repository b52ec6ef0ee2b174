"""The course of an attempt: prepare > score > train (with evaluations) > artifacts."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import disable_progress_bars
from torch import Tensor
from transformers.utils import logging as transformers_logging

from app.domain.errors import InvalidInput
from app.domain.jobs import RunSpec
from app.domain.run import Stage
from worker.models.adapter import LanguageModel, add_lora
from worker.models.load import (
    context_window,
    hash_folder,
    hash_tokenizer,
    load_config,
    load_policy,
    load_tokenizer,
    resolve_folder,
)
from worker.models.prompts import PromptFormat
from worker.models.reward import RewardModel
from worker.spool import Spool
from worker.stages import train as training_stage
from worker.stages.attempt import Attempt
from worker.stages.batches import count_steps, derive_seed, plan_batches
from worker.stages.evaluate import release_memory, set_up
from worker.stages.findings import data_findings
from worker.stages.prepare import Encoded, Lengths, Prepared, fit_lengths, prepare
from worker.stages.score import (
    hash_texts,
    hash_tokens,
    needs_cross_logprobs,
    needs_cross_rewards,
    read_rewards,
    require_finite,
    score_logprobs,
    score_rewards,
)
from worker.stages.scorings import find_scoring, make_key, score_in_groups
from worker.stages.weigh import Weighing, save_weights, weigh
from worker.stop import StopSignals

Batches = list[list[Encoded]]


@dataclass(frozen=True)
class Ground:
    """What is known before any model is loaded."""

    policy_folder: Path
    prompt_format: PromptFormat
    lengths: Lengths
    prepared: Prepared
    batches: Batches


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
    rewards = get_rewards(attempt, ground.batches)
    model, logprobs = get_policy_and_logprobs(attempt, ground)
    checkpoint = training_stage.find_checkpoint(attempt)
    weighing = make_weights(attempt, ground, logprobs, rewards)
    held_out = set_up(attempt, model, ground.prepared.held_out, ground.prompt_format, ground.lengths, ground.policy_folder)
    if spec.recipe.policy.adaptation == "lora":
        model = add_lora(model, spec.recipe.policy.lora, derive_seed(spec.recipe.training.seed, "lora"))
    settings = spec.recipe.training
    num_steps = count_steps(len(ground.batches), settings.epochs, settings.steps)
    training = training_stage.start(attempt, model, weighing, held_out, num_steps, checkpoint)
    training_stage.train(training)
    write_artifacts(attempt, model, ground)
    return training.progress.summary


def lay_ground(attempt: Attempt) -> Ground:
    """Stage prepare: tokens, the held-out split and the batch plan."""
    recipe = attempt.recipe
    progress = attempt.start_stage(Stage.PREPARE, unit="examples")
    folder = resolve_folder(attempt.spec.policy, Path(attempt.spec.hub_dir))
    window = context_window(load_config(folder))
    lengths = fit_lengths(recipe.tokens, recipe.evaluation.max_new_tokens, window)
    if (lengths.max_prompt, lengths.max_response) != (recipe.tokens.max_prompt, recipe.tokens.max_response):
        attempt.log(
            f"The policy's context window is {window} tokens: prompts are cut to {lengths.max_prompt}, "
            f"responses to {lengths.max_response}, answers to {lengths.max_new_tokens}."
        )
    prompt_format = PromptFormat.choose(load_tokenizer(folder), recipe.tokens.prompt_format)
    prepared = prepare(recipe, Path(attempt.spec.dataset_path), prompt_format, lengths, progress)
    _log_prepared(attempt, prepared)
    plan = plan_batches(len(prepared.train), recipe.training.batch_size, recipe.training.seed)
    return Ground(folder, prompt_format, lengths, prepared, [[prepared.train[i] for i in batch] for batch in plan])


def _log_prepared(attempt: Attempt, prepared: Prepared) -> None:
    told = Counter({name: count for name, count in prepared.counts.items() if count})
    details = "".join(f"; {name}: {count}" for name, count in sorted(told.items()))
    attempt.log(f"{len(prepared.train)} examples to train on, {len(prepared.held_out)} held out{details}.")


def get_rewards(attempt: Attempt, batches: Batches) -> list[Tensor]:
    """Stage score, first half: r(x_i, y_j) of every batch, from the cache, the reward model or the data."""
    recipe, spec = attempt.recipe, attempt.spec
    if recipe.reward.source != "model":
        return [read_rewards(recipe, batch) for batch in batches]
    if spec.reward is None:
        raise InvalidInput.at("reward.model", "The recipe names a reward model, but the attempt's spec does not say where it is.")
    folder = resolve_folder(spec.reward, Path(spec.hub_dir))
    cross = needs_cross_rewards(recipe.weights)
    facts = {
        "weights": hash_folder(folder), "tokenizer": hash_tokenizer(folder), "dtype": recipe.policy.dtype, "cross": cross,
    }  # fmt: skip
    model: RewardModel | None = None

    def score(k: int) -> Tensor:
        nonlocal model
        if model is None:
            model = RewardModel(folder, dtype=recipe.policy.dtype, device=spec.device)
        scores = score_rewards(model, batches[k], cross=cross, check=attempt.stop.check)
        return require_finite(scores, batches[k], cross=cross, what="The reward model")

    scores = _scored(attempt, make_key("reward", facts, hash_texts(batches)), len(batches), score, "rewards")
    model = None
    release_memory()
    return scores


def get_policy_and_logprobs(attempt: Attempt, ground: Ground) -> tuple[LanguageModel, list[Tensor]]:
    """Stage score, second half: the untrained policy, which is the reference, and its log π_ref of every batch."""
    recipe, spec = attempt.recipe, attempt.spec
    policy = load_policy(ground.policy_folder, dtype=recipe.policy.dtype, device=spec.device)
    model = policy.language_model
    cross = needs_cross_logprobs(recipe.weights)
    facts = {"weights": hash_folder(ground.policy_folder), "dtype": recipe.policy.dtype, "cross": cross}

    def score(k: int) -> Tensor:
        scores = score_logprobs(model, ground.batches[k], cross=cross, check=attempt.stop.check)
        return require_finite(scores, ground.batches[k], cross=cross, what="The policy")

    key = make_key("logprob", facts, hash_tokens(ground.batches))
    return model, _scored(attempt, key, len(ground.batches), score, "log-probabilities")


def _scored(attempt: Attempt, key: str, num_batches: int, score: Callable[[int], Tensor], what: str) -> list[Tensor]:
    folder = Path(attempt.spec.scorings_dir)
    cached = find_scoring(folder, key, num_batches)
    if cached is not None:
        attempt.log(f"The {what} of all {num_batches} batches were scored before and are reused.")
        return cached
    progress = attempt.start_stage(Stage.SCORE, total=num_batches, unit=f"batches of {what}")
    return score_in_groups(folder, key, num_batches, score, progress)


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
