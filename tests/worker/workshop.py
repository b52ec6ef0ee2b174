"""Tiny models, data and attempts made on the spot: real architectures with random weights, real files, real processes."""

import gc
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from app.domain.jobs import ModelSource, RunSpec
from app.domain.recipe import Recipe
from app.domain.run import RunKind
from tests import warm
from tests.help_desk import KIND, PROBLEMS, RUDE, SUBJECTS, make_rows, write_rows
from worker.models.prompts import Conversation
from worker.models.template import ChatTurn
from worker.runner import main

CHECKOUT = Path(__file__).resolve().parents[2]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

torch.set_num_threads(1)


def ask(question: str, answer: str) -> Conversation:
    return Conversation([ChatTurn("user", question)], ChatTurn("assistant", answer))


def make_tokenizer(*, pad: bool = True, chat: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 360 entries; `chat` adds a chat template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    texts = [f"{s} {p}" for s in SUBJECTS for p in PROBLEMS] + [*KIND, *RUDE, "Human: Assistant:"]
    special = ["<eos>", *(["<pad>"] if pad else [])]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(texts, trainer, length=len(texts))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", **({"pad_token": "<pad>"} if pad else {}))
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_network(kind: str, vocab: int, *, pad_id: int | None = None, reward: bool = False, seed: int = 7) -> Any:
    torch.manual_seed(seed)
    shape = {"vocab_size": vocab, "eos_token_id": 0, "bos_token_id": None, "pad_token_id": pad_id, "num_labels": 1}
    wide = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "initializer_range": 0.3,
    }
    if kind == "llama":
        config = LlamaConfig(**shape, **wide, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True)
        return LlamaForSequenceClassification(config) if reward else LlamaForCausalLM(config)
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**shape, **wide, num_key_value_heads=2, max_position_embeddings=256))
    small = GPT2Config(**shape, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3)
    return GPT2ForSequenceClassification(small) if reward else GPT2LMHeadModel(small)


class Workshop:
    """Makes models, data sets and attempts below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._runs = 0

    def policy(self, kind: str = "llama", *, chat: bool = False) -> Path:
        folder = self.root / f"policy-{kind}-{'chat' if chat else 'plain'}"
        if not folder.exists():
            tokenizer = make_tokenizer(chat=chat)
            build_network(kind, len(tokenizer) + 8, pad_id=1).save_pretrained(folder)  # some families' tokenizers add entries
            tokenizer.save_pretrained(folder)
        return folder

    def reward(self, kind: str = "llama", *, pad: bool = True, seed: int = 7) -> Path:
        folder = self.root / f"reward-{kind}-{'pad' if pad else 'no-pad'}{f'-{seed}' if seed != 7 else ''}"
        if not folder.exists():
            tokenizer = make_tokenizer(pad=pad)
            build_network(kind, len(tokenizer), pad_id=1 if pad else None, reward=True, seed=seed).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    def encoder_reward(self) -> Path:
        """A BERT with a tokenizer of its own, one entry larger than the policies'."""
        folder = self.root / "reward-bert"
        if not folder.exists():
            tokenizer = make_tokenizer()
            tokenizer.add_tokens(["<other>"])
            torch.manual_seed(0)
            config = BertConfig(
                vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                num_labels=1, pad_token_id=1, initializer_range=0.3,
            )  # fmt: skip
            BertForSequenceClassification(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    def examples(self, num: int = 24, *, seed: int = 0) -> list[dict[str, Any]]:
        return make_rows(num, seed=seed)

    def dataset(self, rows: list[dict[str, Any]], name: str = "examples") -> Path:
        """The file of these rows, written once: tests that give others the same name have files of their own."""
        path = self.root / f"{name}-{hashlib.sha256(repr(rows).encode()).hexdigest()[:16]}.parquet"
        if not path.exists():
            write_rows(rows, path)
        return path

    def attempt(
        self, *, dataset: Path | None = None, policy: Path | None = None, number: int = 1, kind: str = "training", **parts: Any
    ) -> Path:
        """An attempt's folder with its spec; `parts` are the recipe's."""
        self._runs += 1
        run_dir = self.root / "runs" / f"run_{self._runs}"
        folder = run_dir / "attempts" / str(number)
        folder.mkdir(parents=True)
        reward, scorings, further = parts.pop("reward_folder", None), parts.pop("scorings", None), parts.pop("further", [])
        if further:
            parts["reward"] = {**parts.get("reward", {}), **dict(zip(("second", "third"), map(str, further), strict=False))}
        parts["policy"] = parts.pop("policy_settings", {})
        recipe = make_recipe(reward is not None, **parts)
        spec = RunSpec(
            run_id=run_dir.name, kind=RunKind(kind), attempt=number, recipe=recipe, dataset_sha256="0" * 64,
            dataset_path=str(dataset or self.dataset(self.examples())), policy=self.source(policy or self.policy()),
            reward=self.source(reward) if reward else None, further=tuple(map(self.source, further)), run_dir=str(run_dir),
            scorings_dir=str(scorings or run_dir / "scorings"), hub_dir=str(self.root / "hub"), num_threads=1,
        )  # fmt: skip
        (folder / "spec.json").write_text(spec.model_dump_json(by_alias=True))
        return folder

    @staticmethod
    def source(folder: Path) -> ModelSource:
        return ModelSource(source="folder", path=str(folder))

    def next_attempt(self, folder: Path) -> Path:
        """The following attempt at the same run."""
        spec = json.loads((folder / "spec.json").read_text())
        after = folder.parent / str(spec["attempt"] + 1)
        after.mkdir()
        (after / "spec.json").write_text(json.dumps({**spec, "attempt": spec["attempt"] + 1}))
        return after


def make_recipe(has_reward_model: bool = False, **parts: Any) -> Recipe:
    """A short run: 4 prompts a batch, 3 evaluations; `parts` override whole sections by key."""
    defaults: dict[str, dict[str, Any]] = {
        "policy": {"model": "tiny"},
        "reward": {"source": "model", "model": "tiny-reward"} if has_reward_model else {"source": "preference"},
        "weights": {"lambda": 0.5},
        "tokens": {"max_prompt": 64, "max_response": 48},
        "training": {"batch_size": 4, "epochs": 2, "learning_rate": 1e-2, "checkpoint_every": 2},
        "evaluation": {"share": 0.2, "num_prompts": 4, "num_samples_shown": 2, "max_new_tokens": 12, "every": 4},
    }
    merged = {key: {**value, **parts.get(key, {})} for key, value in defaults.items()}
    return Recipe.model_validate({"dataset": "tiny", "name": "test", **parts, **merged})


def start_runner(folder: Path) -> subprocess.Popen[bytes]:
    """The runner as its own process, as the supervisor starts it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "log.txt").open("wb") as log:
        return warm.Popen(
            [sys.executable, "-m", "worker.runner", str(folder)],
            cwd=CHECKOUT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def fork_runner(folder: Path) -> multiprocessing.process.BaseProcess:
    """The runner as a fork of this process: its own process to kill, without importing everything again."""
    process = multiprocessing.get_context("fork").Process(target=_run_forked, args=(folder,))
    process.start()
    return process


def _run_forked(folder: Path) -> None:
    with (folder / "log.txt").open("wb", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        warnings.resetwarnings()  # they are errors of the tests, not of a runner
        gc.freeze()  # what the tests have made is not looked through, which would copy all of it
        status = main([str(folder)])
    os._exit(status)


def read_events(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if kind in (None, line["kind"])]
