"""Where answers come from: a policy in a folder or on the hub, perhaps with what a run had trained by one step put into it."""

import hashlib
import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from safetensors import safe_open

from app.domain.answering.job import AnswersSpec, CheckpointSource
from app.domain.errors import ModelInvalid
from worker.models.adapter import LanguageModel
from worker.models.checkpoint import load_step
from worker.models.load import context_window, hash_folder, load_policy, load_tokenizer, resolve_folder
from worker.models.lora import add_lora
from worker.models.prompts import PromptFormat
from worker.stages.job import JobContext

LORA_SEED = 0  # of an adapter's first weights, all of which the checkpoint replaces


@dataclass(frozen=True)
class AnsweringSource:
    """The model that answers, before its weights are read: how it writes conversations, and what tells it from others."""

    folder: Path
    prompt_format: PromptFormat
    sha256: str  # of its files: parts of answers are gone on with only while it stays


def find_source(attempt: JobContext, spec: AnswersSpec) -> AnsweringSource:
    """Return the model of the answers; its files are downloaded, hashed and looked at. Raises ModelInvalid."""
    if spec.model is None:
        raise ModelInvalid("These answers were uploaded: there is no model here that could give more of them.")
    folder = resolve_folder(spec.model, Path(spec.hub_dir))
    prompt_format = PromptFormat.choose(
        load_tokenizer(folder), spec.sampling.prompt_format, attempt.spec.launched_on or date.today()
    )
    prompt_format.check("The model")
    sha256 = hash_folder(folder)
    if spec.checkpoint is not None:
        manifest = Path(spec.checkpoint.folder) / f"step-{spec.checkpoint.step:06d}" / "manifest.json"
        told = manifest.read_bytes() if manifest.is_file() else b""
        sha256 = hashlib.sha256(json.dumps([sha256, hashlib.sha256(told).hexdigest()]).encode()).hexdigest()
    return AnsweringSource(folder, prompt_format, sha256)


def hash_weights(spec: AnswersSpec, source: AnsweringSource) -> str:
    """Return a digest of the tensors that answer, in the number type they answer in, so that a model at the end of its run and
    the checkpoint of its last step are seen to be one.
    """
    trained = _read_values(spec.checkpoint) if spec.checkpoint is not None else {}
    dtype = getattr(torch, spec.sampling.dtype)
    told = {name: _hash_tensor(value.to(dtype)) for name, value in trained.items()}
    for path in source.folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            told |= {name: _hash_tensor(file.get_tensor(name).to(dtype)) for name in file.keys() if name not in told}  # noqa: SIM118
    if not told:
        return source.sha256
    quantization = spec.checkpoint.policy.quantization if spec.checkpoint else "none"
    return hashlib.sha256(json.dumps([spec.sampling.dtype, quantization, sorted(told.items())]).encode()).hexdigest()


def _hash_tensor(value: torch.Tensor) -> str:
    return hashlib.sha256(value.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def _read_values(checkpoint: CheckpointSource) -> dict[str, torch.Tensor]:
    """Return what a checkpoint says the trained parameters are, by their names."""
    tensors = load_step(Path(checkpoint.folder), checkpoint.step).tensors
    return {name.removeprefix("value/"): value for name, value in tensors.items() if name.startswith("value/")}


def load_source(spec: AnswersSpec, source: AnsweringSource) -> tuple[LanguageModel, int | None]:
    """Return the model, ready to answer, and its context window."""
    quantization = spec.checkpoint.policy.quantization if spec.checkpoint else "none"
    policy = load_policy(source.folder, dtype=spec.sampling.dtype, device=spec.device, quantization=quantization)
    model = policy.language_model
    if spec.checkpoint is not None:
        model = put_in(model, spec.checkpoint)
    return model, context_window(model.network.config)


@torch.no_grad()
def put_in(model: LanguageModel, checkpoint: CheckpointSource) -> LanguageModel:
    """Return the model with the weights of a checkpoint: all of its own, or an adapter's. Raises ModelInvalid."""
    values = _read_values(checkpoint)
    if checkpoint.policy.adaptation == "lora":
        model = add_lora(model, checkpoint.policy.lora, LORA_SEED)
    trained = {name: parameter for name, parameter in model.network.named_parameters() if parameter.requires_grad}
    if values.keys() != trained.keys() or any(values[name].shape != trained[name].shape for name in values):
        raise ModelInvalid(
            f"The checkpoint of step {checkpoint.step} does not fit the model that its run began from: that was changed since. "
            "Take the model at the end of the run, or train it again."
        )
    for name, parameter in trained.items():
        parameter.copy_(values[name])
    return model
