"""What a run leaves: the trained model in Hugging Face's form, compared with the one in memory before it gets its name.

`model/` is written in a number type that loses nothing, compared, and only then rounded to the base's, where what was learned
survives that. Memory: the trained model is asked and saved, then let go; the copies are read back one after the other. So there
is one copy of the weights at a time beside what is left of the optimizer, less than a step of training all weights takes; one
of float32 that doesn't fit on the GPU beside the rest is asked on the CPU.
"""

import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.domain.recipe import PolicySettings
from worker.models.adapter import Body, LanguageModel
from worker.models.classifier import build_classifier
from worker.models.compiled import uncompiled
from worker.models.load import DTYPES, load_causal, load_classifier, release_memory
from worker.models.lora import load_adapter
from worker.models.prompts import PromptFormat
from worker.stages.attempt import AttemptContext
from worker.stages.judging import keep_learned
from worker.stages.prepare import Ground
from worker.stages.seeds import derive_seed
from worker.stages.training.comparison import (
    MOST_LOST,
    Yardstick,
    bound_of,
    choose_examples,
    compare_policy,
    compare_reward_model,
    compare_tokenizer,
    is_exact,
)
from worker.stages.training.distribution import find_whole
from worker.stages.training.gradients import TextBatch
from worker.stages.training.saving import (
    Precision,
    choose_precision,
    declare_ends,
    let_go,
    merge,
    name_of,
    round_weights,
    save_adapter,
    save_network,
    widen,
)

ANYTHING = sys.float_info.max  # that is finite


def keep_policy(attempt: AttemptContext, model: LanguageModel, ground: Ground) -> None:
    """Write what a user takes home: the policy, the adapter, metrics and samples. All processes must call this."""
    started = time.monotonic()
    with uncompiled(model):
        yardstick = compare_policy(model, choose_examples(ground))
    whole = find_whole(attempt, model, ground.policy_folder)
    attempt.ranks.lead_alone(lambda: _write_policy(attempt, whole, ground, yardstick, started))


def _write_policy(attempt: AttemptContext, model: LanguageModel, ground: Ground, yardstick: Yardstick, started: float) -> None:
    policy, tokenizer, folder, lora = attempt.recipe.policy, ground.prompt_format.tokenizer, ground.policy_folder, model.lora
    trained = DTYPES[policy.dtype]
    wide = trained if lora is None else torch.float32
    saving = Saving(attempt, ground, yardstick, load_causal, wide)

    def write(paths: dict[str, Path]) -> None:
        if lora is None:
            saving.write(model.network, paths["model"])
            told = saving.settle(paths["model"], lambda: yardstick.measure(saving.ask(folder, trained, yardstick.ask)))
        else:
            save_adapter(lora, tokenizer, paths["adapter"], attempt.spec.policy, folder)
            saving.write(merge(model), paths["model"])
            told = _settle_adapter(saving, policy, paths)
        compare_tokenizer(ground.prompt_format, paths["model"], choose_examples(ground)[0])
        _tell(attempt, yardstick, told, started)

    titles = {"model": "The trained policy"} | ({} if lora is None else {"adapter": "The LoRA adapter"})
    attempt.write_folders(titles, write)
    attempt.announce("metrics.jsonl", "Every metric of every step")
    attempt.announce("samples.jsonl", "All answers to the held-out prompts, with tokens and log-probabilities")
    attempt.announce("responses.jsonl", "Log-probabilities of the held-out responses under both models")


def _settle_adapter(saving: "Saving", policy: PolicySettings, paths: dict[str, Path]) -> str:
    """Compare the adapter on its base with the policy in memory, then the merged model with these two, in float32."""
    yardstick, folder, trained = saving.yardstick, saving.ground.policy_folder, DTYPES[policy.dtype]

    def ask_both(base: Any) -> tuple[Tensor, Tensor, float]:
        base_N = yardstick.ask(base)
        bound = saving.find_bound(base, trained, yardstick.measure(base_N))
        return base_N, yardstick.ask(load_adapter(base, paths["adapter"])), bound

    base_N, adapted_N, bound = saving.ask(folder, trained, ask_both, quantization=policy.quantization)
    mean = yardstick.judge(adapted_N, "adapter/ on its base", bound)
    if trained != saving.wide:  # the same weights once more, asked as the merged ones are
        base_N, adapted_N, _ = saving.ask(folder, trained, lambda base: ask_both(widen(base)), quantization=policy.quantization)
        saving = replace(saving, yardstick=replace(yardstick, want_N=adapted_N))
    learned = float((adapted_N - base_N).abs().mean())
    return f"adapter/ on its base {mean:.1e}, {saving.settle(paths['model'], lambda: learned)}"


def keep_reward_model(attempt: AttemptContext, model: Body, ground: Ground, batch: TextBatch) -> None:
    """Write the trained reward model, compared on the first conversations of the batch, and the metrics."""
    started = time.monotonic()
    yardstick = compare_reward_model(model, batch, attempt)
    trained, tokenizer = DTYPES[attempt.recipe.policy.dtype], ground.prompt_format.tokenizer
    saving = Saving(attempt, ground, yardstick, load_classifier, trained)

    def ask_start(base: Any) -> Tensor:
        return yardstick.ask(build_classifier(base, tokenizer, derive_seed(attempt.recipe.training.seed, "head")).network)

    def write(paths: dict[str, Path]) -> None:
        saving.write(model.network, paths["model"])
        start = replace(saving, load=load_causal)
        told = saving.settle(paths["model"], lambda: yardstick.measure(start.ask(ground.policy_folder, trained, ask_start)))
        compare_tokenizer(PromptFormat.choose(tokenizer, day=attempt.day), paths["model"], choose_examples(ground)[0])
        keep_learned(paths["model"], ground.prepared.train)
        _tell(attempt, yardstick, told, started)

    attempt.write_folders({"model": "The trained reward model"}, write)
    attempt.announce("metrics.jsonl", "Every metric of every step")
    attempt.announce("responses.jsonl", "Rewards of the held-out responses")


def _tell(attempt: AttemptContext, yardstick: Yardstick, told: str, started: float) -> None:
    attempt.log(
        f"What was saved is the trained model: read again and asked about {len(yardstick.want_N)} {yardstick.what}, it differs "
        f"from the one in memory by so many {yardstick.unit} on average: {told}. "
        f"Saving and comparing took {time.monotonic() - started:.1f} s."
    )


@dataclass(frozen=True)
class Saving:
    """The saving of one network: what it answered in memory, how a copy is read, and the number type that loses nothing."""

    attempt: AttemptContext
    ground: Ground
    yardstick: Yardstick
    load: Callable[..., Any]
    wide: torch.dtype

    def write(self, network: Any, path: Path) -> None:
        """Write the trained network, which is let go, without any loss."""
        self._save(network, path, Precision(self.wide))
        let_go(network)
        release_memory()

    def settle(self, path: Path, find_learned: Callable[[], float]) -> str:
        """Compare what was written, and round it to the number type that is wanted; returns what there is to tell.

        `find_learned` gives the mean |difference| that training has made: rounding may take a tenth of it, and so may saving
        in 16 bits. Where another type than the base's was asked for, it is rounded whatever that takes. What overflows is
        never rounded.
        """
        policy, precision = self.attempt.recipe.policy, choose_precision(self.attempt.recipe.policy, self.ground.policy_folder)
        wide, wanted, is_free = name_of(self.wide), name_of(precision.dtype), policy.saved_dtype != "base"
        is_needed = not is_exact(self.wide) or (precision.dtype != self.wide and not is_free)
        learned = find_learned() if is_needed else ANYTHING
        most = ANYTHING if is_free else MOST_LOST * learned
        mean, lost, rounded_N = self.ask(path, self.wide, lambda copy: self._judge(copy, path, precision, learned, most))
        if rounded_N is None:
            return f"model/ in {wide} {mean:.1e}"
        if not lost <= most:
            self.attempt.log(
                f"The base is in {wanted}, but rounded to it the trained model would move by {lost:.2g} {self.yardstick.unit}, "
                f"of {learned:.2g} that training has moved it: model/ stays in {wide}. To have it rounded all the same, set "
                f"policy.saved_dtype to {wanted}."
                if math.isfinite(lost)
                else f"In {wanted} the trained model would overflow, as some of its weights are above "
                f"{torch.finfo(precision.dtype).max:g}: model/ stays in {wide}."
            )
            return f"model/ in {wide} {mean:.1e}"
        again = replace(self.yardstick, want_N=rounded_N)
        self.ask(path, self.wide, lambda copy: again.judge(again.ask(copy), "model/", self.find_bound(copy, self.wide, learned)))
        told = "" if is_free else f" of {learned:.1e} that training has changed"
        return f"model/ in {wanted} {lost:.1e}{told}"

    def find_bound(self, network: Any, dtype: torch.dtype, learned: float) -> float:
        """Return how far the answers may lie from the trained model's, where training has moved them by `learned`."""
        is_alike = network.device.type == torch.device(self.attempt.spec.device).type
        return bound_of(dtype, learned if is_alike else math.inf)

    def _judge(
        self, copy: Any, path: Path, precision: Precision, learned: float, most: float
    ) -> tuple[float, float, Tensor | None]:
        """Compare a copy, then round it and write it in its own place unless that takes too much.

        Returns the mean |difference|, what rounding takes, and the answers after it; None: nothing is to be rounded.
        """
        mean = self.yardstick.judge(self.yardstick.ask(copy), "model/", self.find_bound(copy, self.wide, learned))
        if precision.dtype == self.wide:
            return mean, 0.0, None
        is_finite = round_weights(copy, precision)
        rounded_N = self.yardstick.ask(copy)
        lost = self.yardstick.measure(rounded_N) if is_finite else math.inf
        if lost <= most:
            shutil.rmtree(path)
            path.mkdir()
            self._save(copy, path, precision)
        return mean, lost, rounded_N

    def _save(self, network: Any, path: Path, precision: Precision) -> None:
        save_network(network, self.ground.prompt_format.tokenizer, path, precision, self.ground.policy_folder)
        declare_ends(path, self.ground.prompt_format.end_ids)

    def ask(self, folder: Path, dtype: torch.dtype, use: Callable[[Any], Any], **options: Any) -> Any:
        """Return what `use` makes of a copy, which is let go; on the CPU where the GPU has no room for it."""
        self.attempt.stop.check()
        try:
            return self._ask(folder, dtype, self.attempt.spec.device, use, options)
        except torch.OutOfMemoryError:
            release_memory()
            return self._ask(folder, dtype, "cpu", use, options)

    def _ask(self, folder: Path, dtype: torch.dtype, device: str, use: Callable[[Any], Any], options: dict[str, Any]) -> Any:
        network = self.load(folder, dtype=name_of(dtype), device=device, **options)
        try:
            return use(network)
        finally:
            let_go(network)
            release_memory()
