"""One way of training on a GPU, in a process of its own: `python -m tests.gpu.steps METHOD SIZE`.

Answers each line of standard input with the seconds of one optimizer step and the memory it took, as JSON. Every method gets the
same Qwen2.5-shaped network with random weights in bfloat16, and the same pairs with the same ids.
"""

import json
import random
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from dataclasses import replace

import torch
from transformers import AutoModelForCausalLM, Qwen2Config, TrainerCallback
from transformers.utils import logging

from app.domain.training.settings import TrainingSettings
from app.domain.weighting import WeightSettings
from tests.bench.steps import END, make_tokenizer, write
from worker.models.adapter import adapt
from worker.stages.examples import Encoded, EncodedResponse
from worker.stages.training.gradients import accumulate_weighted
from worker.stages.training.optimizer import Optimizer
from worker.stages.training.weights import weigh

VOCABULARY = 151_936
SHAPES = {  # hidden, layers, intermediate, heads, key-value heads: those of Qwen2.5 0.5 B and 1.5 B
    "0.5B": (896, 24, 4864, 14, 2),
    "1.5B": (1536, 28, 8960, 12, 2),
}
PAIRS, PROMPT, RESPONSE = 8, 512, (256, 512)


def build_network(size: str):
    hidden, layers, intermediate, heads, keys = SHAPES[size]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=layers, intermediate_size=intermediate,
        num_attention_heads=heads, num_key_value_heads=keys, tie_word_embeddings=True, max_position_embeddings=4096,
        eos_token_id=END, bos_token_id=None, pad_token_id=1,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).to("cuda")


def draw_examples() -> list[Encoded]:
    chance = random.Random(0)

    def ids(length: int) -> "array[int]":
        return array("i", [chance.randrange(2, VOCABULARY) for _ in range(length)])

    def response(k: int) -> EncodedResponse:
        return EncodedResponse(ids(chance.randint(*RESPONSE) - 1) + array("i", [END]), "", None, 1 - 2 * k, k)

    return [Encoded(i, (), ids(PROMPT), (response(0), response(1))) for i in range(PAIRS)]


def var_step(size: str, *, packs: bool, flexes: bool) -> Callable[[], float]:
    """The studio's step on cached scores."""
    model = adapt(build_network(size).eval())
    if packs and not (model.packs and (model.flexes or not flexes)):
        raise SystemExit("packed rows, or FlexAttention, did not pass their self-check here")
    model = replace(model, packs=packs, flexes=flexes)
    examples = draw_examples()
    scores = torch.Generator().manual_seed(1)
    logprob_BM = -100 - 50 * torch.rand(PAIRS, 2 * PAIRS, generator=scores)
    reward_BM = torch.randn(PAIRS, 2 * PAIRS, generator=scores)
    weighing = weigh([examples], [logprob_BM], [reward_BM], WeightSettings.model_validate({"lambda": 0.5}))
    optimizer = Optimizer(dict(model.network.named_parameters()), TrainingSettings(learning_rate=1e-6))
    model.network.train()

    def step() -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        accumulate_weighted(model, weighing.batches[0], None)
        optimizer.step(1e-6, optimizer.grad_norm())
        torch.cuda.synchronize()
        return time.perf_counter() - started

    return step


class Clock(TrainerCallback):
    """Seconds from the begin of the last step to its end."""

    seconds = 0.0

    def on_step_begin(self, *args, **kwargs) -> None:
        torch.cuda.synchronize()
        self._started = time.perf_counter()

    def on_step_end(self, *args, **kwargs) -> None:
        torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._started


def trl_step(size: str, method: str) -> Callable[[], float]:
    """A step of TRL's own loop with its defaults, in bfloat16, without recomputation."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options = {
        "output_dir": tempfile.mkdtemp(), "max_steps": 2, "learning_rate": 1e-6, "bf16": True, "gradient_checkpointing": False,
        "max_length": None, "report_to": [], "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    clock = Clock()
    shared = {"model": build_network(size), "processing_class": make_tokenizer(VOCABULARY), "callbacks": [clock]}
    pairs = [[write(part) for part in (e.prompt_ids, *(r.ids[:-1] for r in e.responses))] for e in draw_examples()]
    if method == "trl-sft":
        data = [{"prompt": prompt, "completion": " " + text} for prompt, *texts in pairs for text in texts]
        sft = SFTConfig(per_device_train_batch_size=len(data), **options)
        trainer = SFTTrainer(args=sft, train_dataset=Dataset.from_list(data), **shared)
    else:
        data = [{"prompt": prompt, "chosen": f" {good}", "rejected": f" {bad}"} for prompt, good, bad in pairs]
        dpo = DPOConfig(per_device_train_batch_size=PAIRS, **options)
        trainer = DPOTrainer(args=dpo, ref_model=build_network(size), train_dataset=Dataset.from_list(data), **shared)

    def step() -> float:
        trainer.train()
        return clock.seconds

    return step


METHODS: dict[str, Callable[[str], Callable[[], float]]] = {
    "var-padded": lambda size: var_step(size, packs=False, flexes=False),
    "var-packed": lambda size: var_step(size, packs=True, flexes=False),
    "var-flex": lambda size: var_step(size, packs=True, flexes=True),
    "trl-sft": lambda size: trl_step(size, "trl-sft"),
    "trl-dpo": lambda size: trl_step(size, "trl-dpo"),
}


def count_flops(size: str) -> float:
    """Of one step on all rows, prompts counted with each response: 6 per weight and token, the head on responses alone, and
    12·h·T² of attention a row and layer, halved as it is causal. Sharing prompts does less; the figure is of useful work."""
    hidden, layers, intermediate, heads, keys = SHAPES[size]
    block = hidden * hidden * (2 + 2 * keys / heads) + 3 * hidden * intermediate
    flops = 0.0
    for example in draw_examples():
        for response in example.responses:
            num_tokens = len(example.prompt_ids) + len(response.ids)
            flops += 6 * layers * block * num_tokens + 6 * layers * hidden * num_tokens**2
            flops += 6 * hidden * VOCABULARY * len(response.ids)
    return flops


def count_tokens() -> int:
    return sum(len(e.prompt_ids) + len(r.ids) for e in draw_examples() for r in e.responses)


def main() -> None:
    method, size = sys.argv[1:]
    answer, sys.stdout = sys.stdout, sys.stderr  # TRL prints
    step = METHODS[method](size)
    for _ in sys.stdin:
        torch.cuda.reset_peak_memory_stats()
        seconds = step()
        print(json.dumps({"seconds": seconds, "peak": torch.cuda.max_memory_allocated()}), file=answer, flush=True)


if __name__ == "__main__":
    main()
