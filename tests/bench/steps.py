"""One way of training, in a process of its own: `python -m tests.bench.steps METHOD VOCABULARY`.

Answers each line of standard input with the CPU seconds of one optimizer step, as JSON, and with the memory held so far.
Every method gets the same Llama (6 layers × 512), the same 4 pairs with the same ids, AdamW, clipping, one thread, float32.
"""

import json
import random
import re
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from transformers.utils import logging

from app.domain.training.settings import TrainingSettings
from app.domain.weighting import WeightSettings
from worker.models.adapter import LanguageModel, adapt
from worker.stages.batches import split_batch
from worker.stages.examples import Encoded, EncodedResponse
from worker.stages.training.gradients import PairedBatch, accumulate_preferences, accumulate_weighted, run_rows
from worker.stages.training.objectives import find_pairs
from worker.stages.training.optimizer import Optimizer
from worker.stages.training.weights import weigh
from worker.var.logprobs import sequence_sums, token_logprobs
from worker.var.preferences import Dpo

END, PAD = 0, 1
PAIRS, PROMPT, RESPONSE = 4, 128, (64, 128)
BETA = 0.1
STEPS = 2  # of TRL's loop in one round; the last one counts, the first also makes the optimizer's state


def build_network(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=512, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=8,
        intermediate_size=1408, eos_token_id=END, pad_token_id=PAD, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def draw_examples(vocabulary: int) -> list[Encoded]:
    chance = random.Random(0)

    def ids(length: int) -> "array[int]":
        return array("i", [chance.randrange(2, vocabulary) for _ in range(length)])

    def response(k: int) -> EncodedResponse:
        return EncodedResponse(ids(chance.randint(*RESPONSE) - 1) + array("i", [END]), "", None, 1 - 2 * k, k)

    return [Encoded(i, (), ids(PROMPT), (response(0), response(1))) for i in range(PAIRS)]


def var_step(vocabulary: int, *, packs: bool) -> Callable[[], float]:
    """The studio's step on cached scores: gradient, norm, clipping, AdamW and the diagnostics of the weights."""
    model = replace(adapt(build_network(vocabulary).eval()), packs=packs)
    examples = draw_examples(vocabulary)
    scores = torch.Generator().manual_seed(1)
    logprob_BM = -100 - 50 * torch.rand(PAIRS, 2 * PAIRS, generator=scores)
    reward_BM = torch.randn(PAIRS, 2 * PAIRS, generator=scores)
    weighing = weigh([examples], [logprob_BM], [reward_BM], WeightSettings.model_validate({"lambda": 0.5}))
    optimizer = make_optimizer(model)

    def step() -> None:
        accumulate_weighted(model, weighing.batches[0], None)
        optimizer.step(1e-6, optimizer.grad_norm())
        weighing.describe(weighing.batches[0])

    return lambda: cpu_seconds(step)


def dpo_step(vocabulary: int, *, packs: bool) -> Callable[[], float]:
    """The studio's own DPO step, with the reference's log-probabilities made in the step instead of found in the cache."""
    model = replace(adapt(build_network(vocabulary).eval()), packs=packs)
    reference = replace(adapt(build_network(vocabulary).eval()), packs=packs)
    examples = draw_examples(vocabulary)
    pairs = find_pairs(examples)
    num_tokens_M = torch.tensor([len(response.ids) for example in examples for response in example.responses])
    optimizer = make_optimizer(model)
    model.network.train()

    def step() -> None:
        (micro,) = split_batch(examples, torch.ones(2 * PAIRS, dtype=torch.bool), None, packs=packs)
        before_M = torch.empty(2 * PAIRS)
        with torch.no_grad():
            before_M[micro.response_R] = sum_rows(reference, run_rows(reference, micro.rows)[micro.rows.place_N], micro.rows)
        accumulate_preferences(model, PairedBatch(0, examples, *pairs, before_M, num_tokens_M), None, Dpo(BETA), "dpo")
        optimizer.step(1e-6, optimizer.grad_norm())

    return lambda: cpu_seconds(step)


def sum_rows(model: LanguageModel, hidden_ND: Tensor, rows) -> Tensor:
    logprob_N = token_logprobs(hidden_ND.detach(), model.head.weight_VD, rows.target_N, **model.head.options())
    return sequence_sums(logprob_N, rows.owner_N, 2 * PAIRS)


def make_optimizer(model: LanguageModel) -> Optimizer:
    return Optimizer(dict(model.network.named_parameters()), TrainingSettings(learning_rate=1e-6))


def cpu_seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def trl_step(vocabulary: int, method: str) -> Callable[[], float]:
    """A step of TRL's own loop, without what lies between steps. Its defaults, but for float32 and no recomputation."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options = {
        "output_dir": tempfile.mkdtemp(), "max_steps": STEPS, "learning_rate": 1e-6, "use_cpu": True, "bf16": False,
        "gradient_checkpointing": False, "max_length": None, "report_to": [], "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    clock = Clock()
    shared = {"model": build_network(vocabulary), "processing_class": make_tokenizer(vocabulary), "callbacks": [clock]}
    pairs = [[write(part) for part in (e.prompt_ids, *(r.ids[:-1] for r in e.responses))] for e in draw_examples(vocabulary)]
    if method == "trl-sft":
        data = [{"prompt": prompt, "completion": " " + text} for prompt, *texts in pairs for text in texts]
        sft = SFTConfig(per_device_train_batch_size=len(data), **options)
        trainer = SFTTrainer(args=sft, train_dataset=Dataset.from_list(data), **shared)
    else:
        data = [{"prompt": prompt, "chosen": f" {good}", "rejected": f" {bad}"} for prompt, good, bad in pairs]
        precomputed = method == "trl-dpo-precomputed"
        dpo = DPOConfig(per_device_train_batch_size=PAIRS, precompute_ref_log_probs=precomputed, beta=BETA, **options)
        reference = None if precomputed else build_network(vocabulary)
        trainer = DPOTrainer(args=dpo, ref_model=reference, train_dataset=Dataset.from_list(data), **shared)
    check_same_rows(trainer, vocabulary)

    def step() -> float:
        trainer.train()
        return clock.seconds

    return step


class Clock(TrainerCallback):
    """CPU seconds from the begin of the last step to its end: forward, backward, clipping, AdamW, TRL's metrics."""

    seconds = 0.0

    def on_step_begin(self, *args, **kwargs) -> None:
        self._started = time.process_time()

    def on_step_end(self, *args, **kwargs) -> None:
        self.seconds = time.process_time() - self._started


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Word k is id k: ids become texts and the same ids again."""
    words = {"<end>": END, "<pad>": PAD} | {f"w{k}": k for k in range(2, vocabulary)}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<pad>", unk_token="<pad>")


def write(ids: "array[int]") -> str:
    return " ".join(f"w{k}" for k in ids)


def check_same_rows(trainer, vocabulary: int) -> None:
    """TRL trains on our very rows."""
    rows = next(iter(trainer.get_train_dataloader()))
    ours = sorted([*e.prompt_ids, *r.ids] for e in draw_examples(vocabulary) for r in e.responses)
    kept = zip(rows["input_ids"], rows["attention_mask"], strict=True)
    assert sorted(ids[mask.bool()].tolist() for ids, mask in kept) == ours


METHODS: dict[str, Callable[[int], Callable[[], float]]] = {
    "var-padded": lambda vocabulary: var_step(vocabulary, packs=False),
    "var": lambda vocabulary: var_step(vocabulary, packs=True),
    "dpo-padded": lambda vocabulary: dpo_step(vocabulary, packs=False),
    "dpo": lambda vocabulary: dpo_step(vocabulary, packs=True),
    **{name: lambda vocabulary, name=name: trl_step(vocabulary, name) for name in ("trl-sft", "trl-dpo", "trl-dpo-precomputed")},
}


def memory_bytes(key: str) -> int:
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[1]) * 1024


def main() -> None:
    method, vocabulary = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    answer, sys.stdout = sys.stdout, sys.stderr  # TRL prints
    if method.startswith("trl"):
        from trl import DPOTrainer, SFTTrainer  # noqa: F401  what they import is no memory of a step
    imports = memory_bytes("VmRSS")
    step = METHODS[method](vocabulary)
    for _ in sys.stdin:
        facts = {"seconds": step(), "peak": memory_bytes("VmHWM"), "imports": imports}
        print(json.dumps(facts), file=answer, flush=True)


if __name__ == "__main__":
    main()
