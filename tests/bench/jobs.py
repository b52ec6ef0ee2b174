"""A whole job in one process, imports included: `python -m tests.bench.jobs METHOD FOLDER`.

FOLDER holds model/ and reward/, and pairs.jsonl (prompt, chosen, rejected). METHOD is a form of the weights with λ, as
`length_normalised:0.3`, or `trl-dpo`. The data are read, the policy is trained for two epochs of eight prompts, answers the
first 32 prompts, and is saved. A form reads the scores that another job has left in the folder.
"""

import json
import sys
import tempfile
from pathlib import Path

EPOCHS, BATCH, RATE, BETA = 2, 8, 1e-4, 0.1
MOST_PROMPT, MOST_RESPONSE, NUM_ANSWERED, SHARE = 192, 128, 32, 0.16
FORMS = {
    "length_normalised": {"preset": "length_normalised"},
    "one_scale": {"preset": "reward_weighted", "mean_one": "dataset"},
}


def run_studio(form: str, lambda_: float, root: Path) -> int:
    """From the file to a trained, evaluated, saved policy, as `varstudio train` does it."""
    from app.domain.jobs import ModelSource, RunSpec
    from app.domain.recipe import Recipe
    from app.ingest.ingest import ingest
    from worker.runner import main

    run_dir = Path(tempfile.mkdtemp(dir=root))
    attempt_dir = run_dir / "attempts" / "1"
    attempt_dir.mkdir(parents=True)
    ingest(root / "pairs.jsonl", run_dir / "examples.parquet")
    recipe = Recipe.model_validate({
        "dataset": "pairs", "policy": {"model": "model"},
        "reward": {"source": "model", "model": "reward", "accept_inverted": True},
        "weights": {**FORMS[form], "lambda": lambda_}, "tokens": {"max_prompt": MOST_PROMPT, "max_response": MOST_RESPONSE},
        "training": {"batch_size": BATCH, "epochs": EPOCHS, "learning_rate": RATE, "checkpoint_every": 10_000},
        "evaluation": {
            "share": SHARE, "test_share": 0.999, "num_prompts": 0, "num_test_prompts": NUM_ANSWERED,
            "max_new_tokens": MOST_RESPONSE, "every": 10_000,
        },
    })  # fmt: skip
    models = {name: ModelSource(source="folder", path=str(root / folder)) for name, folder in MODELS.items()}
    spec = RunSpec(
        run_id=run_dir.name, attempt=1, recipe=recipe, dataset_path=str(run_dir / "examples.parquet"), dataset_sha256="0" * 64,
        run_dir=str(run_dir), scorings_dir=str(root / "scorings"), hub_dir=str(root / "hub"), num_threads=1, **models,
    )  # fmt: skip
    (attempt_dir / "spec.json").write_text(spec.model_dump_json(by_alias=True))
    return main([str(attempt_dir)])


MODELS = {"policy": "model", "reward": "reward"}


def run_trl(root: Path) -> int:
    """The same by TRL's DPO, with the answers of one batch of `generate`."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(1)
    rows = [json.loads(line) for line in (root / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [{key: _last(row[key])[1] for key in ("chosen", "rejected")} | {"prompt": _last(row["chosen"])[0]} for row in rows]
    tokenizer = AutoTokenizer.from_pretrained(root / "model", pad_token="<unk>", padding_side="left")
    held_out = round(SHARE * len(texts))
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(dir=root), per_device_train_batch_size=BATCH, num_train_epochs=EPOCHS, learning_rate=RATE,
        beta=BETA, use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=MOST_PROMPT + MOST_RESPONSE, report_to=[],
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(root / "model"), args=config, processing_class=tokenizer,
        train_dataset=Dataset.from_list(texts[held_out:]),
    )  # fmt: skip
    trainer.train()
    asked = tokenizer([row["prompt"] for row in texts[:NUM_ANSWERED]], return_tensors="pt", padding=True, truncation=True,
                      max_length=MOST_PROMPT)  # fmt: skip
    asked.pop("token_type_ids", None)
    with torch.inference_mode():
        trainer.model.generate(**asked, max_new_tokens=MOST_RESPONSE, do_sample=True, top_k=0, pad_token_id=0)
    trainer.save_model(config.output_dir)
    return 0


def _last(text: str) -> tuple[str, str]:
    head, _, answer = text.rpartition("\n\nAssistant:")
    return f"{head}\n\nAssistant:", answer


def main() -> int:
    method, root = sys.argv[1], Path(sys.argv[2])
    if method == "trl-dpo":
        return run_trl(root)
    form, _, lambda_ = method.partition(":")
    return run_studio(form, float(lambda_), root)


if __name__ == "__main__":
    sys.exit(main())
