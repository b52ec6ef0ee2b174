"""Where answers come from: a policy in a folder or on the hub, perhaps with what a run had trained by one step put into it."""

import hashlib
import json
from collections.abc import Mapping
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
    """The model that answers, before it is loaded: how it writes conversations, and what tells it from others."""

    folder: Path
    prompt_format: PromptFormat
    weights_sha256: str
    trained: dict[str, torch.Tensor]  # a checkpoint's, until they are in the model

    @property
    def sha256(self) -> str:
        """Of weights and configuration: parts of answers are gone on with only while it stays."""
        return _digest([self.weights_sha256, hash_folder(self.folder, ("config.json",))])


def find_source(attempt: JobContext, spec: AnswersSpec) -> AnsweringSource:
    """Return the model of the answers; its files are downloaded, its tensors hashed. Raises ModelInvalid."""
    if spec.model is None:
        raise ModelInvalid("These answers were uploaded: there is no model here that could give more of them.")
    folder = resolve_folder(spec.model, Path(spec.hub_dir))
    prompt_format = PromptFormat.choose(
        load_tokenizer(folder), spec.sampling.prompt_format, attempt.spec.launched_on or date.today()
    )
    prompt_format.check("The model")
    trained = read_values(spec.checkpoint) if spec.checkpoint is not None else {}
    return AnsweringSource(folder, prompt_format, hash_weights(spec, folder, trained), trained)


def hash_files(spec: AnswersSpec, folder: Path) -> str:
    """Return what told the model from others before its tensors did: a hash of its files and its checkpoint's manifest."""
    sha256 = hash_folder(folder)
    if spec.checkpoint is None:
        return sha256
    manifest = Path(spec.checkpoint.folder) / f"step-{spec.checkpoint.step:06d}" / "manifest.json"
    told = manifest.read_bytes() if manifest.is_file() else b""
    return _digest([sha256, hashlib.sha256(told).hexdigest()])


def hash_weights(spec: AnswersSpec, folder: Path, trained: Mapping[str, torch.Tensor]) -> str:
    """Return a digest of the tensors that answer, in the number type they answer in, so that a model at the end of its run and
    the checkpoint of its last step are seen to be one.
    """
    dtype = getattr(torch, spec.sampling.dtype)
    told = {name: _hash_tensor(value.to(dtype)) for name, value in trained.items()}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            told |= {name: _hash_tensor(file.get_tensor(name).to(dtype)) for name in file.keys() if name not in told}  # noqa: SIM118
    if not told:
        return hash_folder(folder)
    quantization = spec.checkpoint.policy.quantization if spec.checkpoint else "none"
    return _digest([spec.sampling.dtype, quantization, sorted(told.items())])


def _digest(told: object) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _hash_tensor(value: torch.Tensor) -> str:
    return hashlib.sha256(value.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def read_values(checkpoint: CheckpointSource) -> dict[str, torch.Tensor]:
    """Return what a checkpoint says the trained parameters are, by their names."""
    tensors = load_step(Path(checkpoint.folder), checkpoint.step).tensors
    return {name.removeprefix("value/"): value for name, value in tensors.items() if name.startswith("value/")}


def load_source(spec: AnswersSpec, source: AnsweringSource) -> tuple[LanguageModel, int | None]:
    """Return the model, ready to answer, and its context window."""
    quantization = spec.checkpoint.policy.quantization if spec.checkpoint else "none"
    policy = load_policy(source.folder, dtype=spec.sampling.dtype, device=spec.device, quantization=quantization)
    model = policy.language_model
    if spec.checkpoint is not None:
        model = put_in(model, spec.checkpoint, source.trained)
        source.trained.clear()
    return model, context_window(model.network.config)


@torch.no_grad()
def put_in(model: LanguageModel, checkpoint: CheckpointSource, values: Mapping[str, torch.Tensor]) -> LanguageModel:
    """Return the model with the values of a checkpoint: all of its own, or an adapter's. Raises ModelInvalid."""
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
