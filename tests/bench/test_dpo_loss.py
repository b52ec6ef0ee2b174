"""DPO beside TRL's on one batch: loss, metrics, gradient: `make bench ARGS=tests/bench/test_dpo_loss.py`."""

import importlib.util
from dataclasses import replace

import pytest
import torch

from tests.bench.steps import BETA, PAIRS, build_network, check_same_rows, draw_examples, make_tokenizer, write
from worker.models.adapter import adapt
from worker.stages.scoring.pairs import sequence_logprobs
from worker.stages.training.gradients import PairedBatch, accumulate_preferences
from worker.stages.training.objectives import find_pairs
from worker.var.preferences import Dpo

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed; make bench installs it"),
]
VOCABULARY = 512


def build_policy():
    """The reference, a little further on: every pair has a margin of its own."""
    network = build_network(VOCABULARY)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return network


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """TRL's loss, its metrics and its gradient on the batch, with dropout off and no optimizer step taken."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    pairs = [[write(part) for part in (e.prompt_ids, *(r.ids[:-1] for r in e.responses))] for e in draw_examples(VOCABULARY)]
    config = DPOConfig(
        per_device_train_batch_size=PAIRS, beta=BETA, output_dir=str(tmp_path_factory.mktemp("trl")), max_steps=1, use_cpu=True,
        bf16=False, gradient_checkpointing=False, max_length=None, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": prompt, "chosen": f" {good}", "rejected": f" {bad}"} for prompt, good, bad in pairs])
    trainer = DPOTrainer(
        model=build_policy(), ref_model=build_network(VOCABULARY), args=config, train_dataset=data,
        processing_class=make_tokenizer(VOCABULARY),
    )  # fmt: skip
    check_same_rows(trainer, VOCABULARY)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    metrics = {key: values[-1] for kept in trainer._metrics.values() for key, values in kept.items()}
    return float(loss.detach()), metrics, {name: p.grad for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize("packs", [False, True], ids=["padded", "prompt-shared"])
@pytest.mark.parametrize("micro_batch_size", [None, 1])
def test_our_dpo_is_trls(theirs, packs, micro_batch_size):
    model = replace(adapt(build_policy().eval()), packs=packs)
    reference = adapt(build_network(VOCABULARY).eval())
    examples = draw_examples(VOCABULARY)
    rows = [(example.prompt_ids, response.ids) for example in examples for response in example.responses]
    lengths = torch.tensor([len(ids) for _, ids in rows])
    batch = PairedBatch(0, examples, *find_pairs(examples), sequence_logprobs(reference, rows).float(), lengths)
    done = accumulate_preferences(model, batch, micro_batch_size, Dpo(BETA), "dpo")
    loss, metrics, gradients = theirs
    print(f"\nDPO loss: ours {float(done.loss):.7f}, TRL {loss:.7f}")
    assert float(done.loss) == pytest.approx(loss, rel=1e-5)
    assert float(done.metrics["dpo/accuracy"]) == metrics["rewards/accuracies"]
    for ours, key in (("margin", "margins"), ("gain_chosen", "chosen"), ("gain_rejected", "rejected")):
        assert float(done.metrics[f"dpo/{ours}"]) == pytest.approx(metrics[f"rewards/{key}"], rel=1e-3, abs=1e-4)
    for name, parameter in model.network.named_parameters():
        assert (parameter.grad - gradients[name]).norm() <= 1e-4 * gradients[name].norm(), name
