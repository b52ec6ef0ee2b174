"""The baselines as whole runs: they train, checkpoint, resume, stop, evaluate and leave models like VAR's own."""

import json
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
import torch

from app.domain.events import EVENT_KINDS, SpoolLine
from app.domain.metrics import CATALOGUE
from app.services.models import check_folder
from tests.help_desk import KIND, RUDE
from tests.worker.test_runner import artifacts, outcome, series, wait_for, weights_digest
from tests.worker.workshop import ask, build_network, fork_runner, make_tokenizer, read_events
from worker.models.reward import RewardModel
from worker.models.template import ChatTurn
from worker.stages.conversations import find_opening
from worker.stages.split import split_by_conversation

METHODS = {
    "sft": {"method": "sft", "weights": {"lambda": None}},
    "dpo": {"method": "dpo", "weights": {"lambda": None}},
    "reward_model": {"method": "reward_model", "weights": {"lambda": None}, "evaluation": {"test_share": 0}},
}


@pytest.fixture(scope="module")
def finished(workshop):
    """One undisturbed run of each method."""
    kept = {}

    def get(method: str):
        if method not in kept:
            kept[method] = workshop.attempt(**METHODS[method])
            process = fork_runner(kept[method])
            process.join(120)
            assert process.exitcode == 0, outcome(kept[method])
        return kept[method]

    return get


def metrics_of(folder, kind="step") -> list[dict]:
    return [event["payload"]["metrics"] for event in read_events(folder, kind)]


def logs(folder) -> list[str]:
    return [event["payload"]["text"] for event in read_events(folder, "log")]


@pytest.mark.parametrize("method", METHODS)
def test_every_metric_of_a_method_is_in_the_catalogue(finished, method):
    for line in map(SpoolLine.model_validate, read_events(finished(method))):
        event = EVENT_KINDS[line.kind].model_validate(line.payload)
        assert set(getattr(event, "metrics", {})) <= set(CATALOGUE)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_and_ends_bit_equal(workshop, run, finished, method):
    folder = workshop.attempt(**METHODS[method])
    process = fork_runner(folder)
    wait_for(folder, "step", 5)
    process.kill()
    process.join()
    second = workshop.next_attempt(folder)
    assert run(second) == 0, outcome(second)
    assert weights_digest(second) == weights_digest(finished(method))
    assert series(second) == series(finished(method))


@pytest.mark.parametrize("method", METHODS)
def test_sigterm_saves_and_interrupts(workshop, method):
    folder = workshop.attempt(**METHODS[method], training={"checkpoint_every": 1000, "steps": 5000})
    process = fork_runner(folder)
    wait_for(folder, "step", 3)
    process.terminate()
    process.join(60)
    assert process.exitcode == 12
    steps = [event["payload"]["step"] for event in read_events(folder, "step")]
    assert read_events(folder, "checkpoint")[-1]["payload"]["step"] == steps[-1]


def test_sft_scores_nothing_and_learns(finished):
    folder = finished("sft")
    assert "score" not in [event["payload"]["stage"] for event in read_events(folder, "stage")]
    assert "scoring" not in [event["kind"] for event in read_events(folder)]
    losses = [metrics["eval/loss"] for metrics in metrics_of(folder, "evaluation")]
    assert losses[-1] < losses[0]
    assert not any(key.startswith("weight/") for metrics in metrics_of(folder) for key in metrics)
    assert {event["payload"]["name"] for event in read_events(folder, "finding")} <= {
        "divergence",
        "unfinished_answers",
        "small_held_out",
    }
    assert not (artifacts(folder) / "weights.parquet").exists()


def test_sft_on_the_chosen_learns_them_better_than_on_both(workshop, run, finished):
    folder = workshop.attempt(method="sft", weights={"lambda": None, "responses": "chosen"})
    assert run(folder) == 0, outcome(folder)
    chosen, both = metrics_of(folder, "evaluation")[-1]["eval/loss"], metrics_of(finished("sft"), "evaluation")[-1]["eval/loss"]
    assert chosen < both


def test_dpo_scores_own_pairs_only_and_moves_chosen_and_rejected_apart(finished):
    folder = finished("dpo")
    (scoring,) = [event["payload"]["scoring"] for event in read_events(folder, "scoring")]
    assert scoring["logprob"]["num_pairs"] == scoring["num_responses"]
    assert scoring["reward"] is None
    steps = metrics_of(folder)
    assert steps[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # policy and reference are the same: log 2
    assert steps[0]["dpo/margin"] == pytest.approx(0, abs=1e-3)
    assert steps[-1]["loss"] < 0.3
    assert steps[-1]["dpo/accuracy"] == 1.0
    assert steps[-1]["dpo/margin"] == pytest.approx(steps[-1]["dpo/gain_chosen"] - steps[-1]["dpo/gain_rejected"], rel=1e-4)


@pytest.mark.parametrize(("method", "scored"), [("ipo", True), ("simpo", False), ("orpo", False)])
def test_the_other_losses_on_pairs_learn_them_and_score_only_what_they_read(workshop, run, method, scored):
    folder = workshop.attempt(method=method, weights={"lambda": None}, training={"steps": 6}, evaluation={"num_prompts": 0})
    assert run(folder) == 0, outcome(folder)
    assert bool(read_events(folder, "scoring")) is scored
    steps = metrics_of(folder)
    assert set(steps[0]) <= set(CATALOGUE)
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["pairs/margin"] > steps[0]["pairs/margin"]
    assert steps[-1]["pairs/margin"] == pytest.approx(steps[-1]["pairs/gain_chosen"] - steps[-1]["pairs/gain_rejected"], rel=1e-3)


def test_kto_learns_from_single_labelled_responses(workshop, run):
    rows = [{**row, "responses": row["responses"][k % 2 : k % 2 + 1]} for k, row in enumerate(workshop.examples())]
    folder = workshop.attempt(
        dataset=workshop.dataset(rows, "labelled"), method="kto", weights={"lambda": None}, training={"steps": 8},
        evaluation={"num_prompts": 0},
    )  # fmt: skip
    assert run(folder) == 0, outcome(folder)
    steps = metrics_of(folder)
    assert set(steps[0]) <= set(CATALOGUE)
    assert steps[0]["loss"] == pytest.approx(0.5, abs=1e-3)
    assert steps[0]["kto/kl"] == pytest.approx(0, abs=1e-3)
    assert steps[-1]["kto/gain_desirable"] > steps[-1]["kto/gain_undesirable"]
    (scoring,) = [event["payload"]["scoring"] for event in read_events(folder, "scoring")]
    assert scoring["logprob"]["cross"]


def test_kto_on_pairs_alone_wants_the_word_that_they_are_to_be_split(workshop, run):
    parts = {"method": "kto", "weights": {"lambda": None}, "training": {"steps": 2}, "evaluation": {"num_prompts": 0}}
    folder = workshop.attempt(**parts)
    assert run(folder) == 10
    assert "set kto.split_pairs to true, which takes every chosen response for desirable" in outcome(folder)["reason"]
    assert run(split := workshop.attempt(**parts, kto={"split_pairs": True})) == 0, outcome(split)


def test_dpo_finds_the_log_probabilities_that_var_has_scored(workshop, run):
    first = workshop.attempt(weights={"preset": "length_normalised"}, training={"steps": 1})
    assert run(first) == 0
    second = workshop.attempt(**METHODS["dpo"], training={"steps": 1}, scorings=first.parents[1] / "scorings")
    assert run(second) == 0
    assert any("were scored before and are reused" in text for text in logs(second))


def test_dpo_with_an_adapter_starts_at_its_reference(workshop, run):
    folder = workshop.attempt(**METHODS["dpo"], policy_settings={"adaptation": "lora"}, training={"steps": 3})
    assert run(folder) == 0, outcome(folder)
    assert metrics_of(folder)[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert metrics_of(folder)[-1]["loss"] < metrics_of(folder)[0]["loss"]


def test_micro_batches_of_dpo_and_of_a_reward_model_give_the_whole_batch(workshop, run, finished):
    for method in ("dpo", "reward_model"):
        folder = workshop.attempt(**METHODS[method], training={"micro_batch_size": 1, "steps": 4})
        whole = workshop.attempt(**METHODS[method], training={"steps": 4})
        assert run(folder) == run(whole) == 0
        for part, full in zip(metrics_of(folder), metrics_of(whole), strict=True):
            for key in ("loss", "grad_norm", f"{method}/accuracy", f"{method}/margin"):
                assert part[key] == pytest.approx(full[key], rel=1e-3, abs=1e-4)


def test_a_judge_scores_the_evaluations_of_the_baselines(workshop, run):
    for method in ("sft", "dpo"):
        folder = workshop.attempt(**METHODS[method], reward_folder=workshop.reward(), training={"steps": 2})
        assert run(folder) == 0, outcome(folder)
        assert "eval/win_rate" in metrics_of(folder, "evaluation")[-1]
        assert "rewards" not in " ".join(logs(folder))  # the reward model was asked about no training response


def test_a_reward_model_tells_held_out_pairs_apart_and_serves_at_once(workshop, finished):
    folder = finished("reward_model")
    first, *_, last = metrics_of(folder, "evaluation")
    assert last["eval/pair_accuracy"] == 1.0 > last["eval/pair_accuracy_low"] > 0.4
    assert last["eval/pair_loss"] < first["eval/pair_loss"]
    assert {event["payload"]["stage"] for event in read_events(folder, "stage")} == {"prepare", "train", "evaluate"}
    model = RewardModel(artifacts(folder) / "model", dtype="float32", device="cpu")
    rows = workshop.examples(8, seed=9)
    pairs = [ask(row["prompt"][0]["content"], r["content"]) for row in rows for r in row["responses"]]
    scores = torch.tensor(model.score(pairs))
    assert bool((scores[0::2] > scores[1::2]).all())
    assert check_folder(artifacts(folder) / "model", [artifacts(folder)], "reward")["num_labels"] == 1
    names = {event["payload"]["name"] for event in read_events(folder, "artifact")}
    assert {"model/config.json", "model/model.safetensors", "model/tokenizer.json", "metrics.jsonl"} <= names
    assert "samples.jsonl" not in names


def test_a_reward_model_says_which_conversations_it_has_learned_from(workshop, finished):
    folder = finished("reward_model")
    settings = json.loads((folder / "spec.json").read_text())["recipe"]["evaluation"]
    learned, held_out = split_by_conversation(place(workshop.examples()), settings["share"], settings["seed"])
    kept = pq.read_table(artifacts(folder) / "model" / "conversations.parquet")["opening"].to_pylist()
    assert kept == sorted(one.conversation for one in learned)
    assert not {one.conversation for one in held_out} & {*kept}
    assert "model/conversations.parquet" in {event["payload"]["name"] for event in read_events(folder, "artifact")}


@pytest.mark.parametrize(("kind", "chat"), [("gpt2", False), ("qwen2", True)])
def test_a_reward_model_of_any_family_has_the_accuracy_that_its_run_told(workshop, run, kind, chat):
    folder = workshop.attempt(policy=workshop.policy(kind, chat=chat), **METHODS["reward_model"], training={"steps": 3})
    assert run(folder) == 0, outcome(folder)
    model = RewardModel(artifacts(folder) / "model", dtype="float32", device="cpu")
    assert model.format.chat == chat
    config = json.loads((artifacts(folder) / "model" / "config.json").read_text())
    assert config["architectures"][0].endswith("ForSequenceClassification")
    assert config["pad_token_id"] == model.tokenizer.pad_token_id
    after = metrics_of(folder, "evaluation")[-1]
    spec = json.loads((folder / "spec.json").read_text())
    held_out = held_out_rows(spec, workshop.examples())
    scores = torch.tensor(model.score(held_out)).view(-1, 2)
    assert after["eval/pair_margin"] == pytest.approx(float((scores[:, 0] - scores[:, 1]).mean()), abs=1e-3)


class Placed(NamedTuple):
    """A row that is a conversation of its own."""

    conversation: int
    row: dict


def place(rows) -> list[Placed]:
    return [Placed(find_opening([ChatTurn(turn["role"], turn["content"]) for turn in row["prompt"]]), row) for row in rows]


def held_out_rows(spec, rows) -> list:
    """(prompt, answer) of the examples that the run has set aside, chosen before rejected."""
    settings = spec["recipe"]["evaluation"]
    chosen = [one.row for one in split_by_conversation(place(rows), settings["share"], settings["seed"])[1]]
    return [ask(row["prompt"][0]["content"], r["content"]) for row in chosen for r in row["responses"]]


def test_swapped_labels_teach_a_reward_model_the_opposite_while_held_out_pairs_stay_clean(workshop, run):
    rows = workshop.examples()
    for row in rows:
        row["responses"] = [{**r, "preference": -r["preference"]} for r in row["responses"]]
    swapped = workshop.attempt(dataset=workshop.dataset(rows, "swapped"), **METHODS["reward_model"], training={"steps": 4})
    noisy = workshop.attempt(**METHODS["reward_model"], noise={"label_flip_share": 0.5, "seed": 3}, training={"steps": 4})
    clean = workshop.attempt(**METHODS["reward_model"], training={"steps": 4})
    assert run(swapped) == run(noisy) == run(clean) == 0
    accuracy = [metrics_of(folder, "evaluation")[0]["eval/pair_accuracy"] for folder in (clean, noisy, swapped)]
    assert accuracy[0] == accuracy[1] == pytest.approx(1 - accuracy[2])  # the held-out labels are the data's own
    margins = [metrics_of(folder, "evaluation")[-1]["eval/pair_margin"] for folder in (clean, noisy)]
    assert margins[0] > margins[1]


def test_noise_changes_training_but_neither_the_scores_nor_the_findings_about_the_data(workshop, run):
    clean = workshop.attempt(reward_folder=workshop.reward(), training={"steps": 2})
    assert run(clean) == 0
    noisy = workshop.attempt(
        reward_folder=workshop.reward(), training={"steps": 2}, noise={"reward_std": 2.0, "label_flip_share": 0.5},
        scorings=clean.parents[1] / "scorings",
    )  # fmt: skip
    assert run(noisy) == 0
    assert sum("were scored before and are reused" in text for text in logs(noisy)) == 2
    assert metrics_of(noisy)[0]["reward/std"] > 1.3 * metrics_of(clean)[0]["reward/std"]
    told = [
        {e["payload"]["name"]: e["payload"]["evidence"] for e in read_events(folder, "finding") if e["payload"]["step"] is None}
        for folder in (clean, noisy)
    ]
    assert told[0] == told[1]
    again = workshop.attempt(
        reward_folder=workshop.reward(), training={"steps": 2}, noise={"reward_std": 2.0, "label_flip_share": 0.5},
        scorings=clean.parents[1] / "scorings",
    )  # fmt: skip
    assert run(again) == 0
    assert series(again) == series(noisy)


@pytest.mark.parametrize(
    ("parts", "field", "sentence"),
    [
        (METHODS["dpo"], "method", "no pairs of a chosen and a rejected response, which dpo learns from"),
        (METHODS["reward_model"], "method", "no pairs of a chosen and a rejected response, which reward_model learns from"),
        ({"method": "sft", "weights": {"lambda": None, "responses": "chosen"}}, "weights.responses", "no chosen responses"),
        ({"reward": {"source": "rating"}, "weights": {"preset": "within_prompt"}}, "weights.partition_scope", "one response per"),
    ],
    ids=["dpo", "reward_model", "sft on the chosen", "within the prompt"],
)
def test_data_that_lack_what_a_method_needs_are_refused_with_a_sentence(workshop, run, parts, field, sentence):
    rows = workshop.examples()
    for row in rows:
        row["responses"] = [{**row["responses"][0], "preference": None}]
    parts = {**parts, "reward": {"source": "rating", **parts.get("reward", {})}}
    folder = workshop.attempt(dataset=workshop.dataset(rows, "single"), **parts)
    assert run(folder) == 10
    assert sentence in outcome(folder)["reason"]
    assert outcome(folder)["retry"] is False


def test_examples_without_a_pair_are_counted_and_teach_nothing(workshop, run):
    rows = workshop.examples(12)
    for row in rows[::2]:
        row["responses"] = row["responses"][:1]
    folder = workshop.attempt(
        dataset=workshop.dataset(rows, "half"),
        **METHODS["dpo"],
        training={"batch_size": 1, "epochs": 1},
        evaluation={"share": 0.0},
    )
    assert run(folder) == 0, outcome(folder)
    assert any(text.startswith("6 of 12 examples have no pair") for text in logs(folder))
    assert [metrics["grad_norm"] for metrics in metrics_of(folder)].count(0) == 6


def test_a_tokenizer_without_a_pad_token_gives_its_reward_model_one(workshop, run):
    policy = workshop.root / "policy-without-pad"
    tokenizer = make_tokenizer(pad=False)
    build_network("llama", len(tokenizer)).save_pretrained(policy)
    tokenizer.save_pretrained(policy)
    folder = workshop.attempt(policy=policy, **METHODS["reward_model"], training={"steps": 2})
    assert run(folder) == 0, outcome(folder)
    model = RewardModel(artifacts(folder) / "model", dtype="float32", device="cpu")
    assert model.tokenizer.pad_token == "<eos>"
    pairs = [ask("my lamp is broken", answer) for answer in (KIND[0], "No", RUDE[1])]
    assert model.score(pairs) == pytest.approx([model.score([pair])[0] for pair in pairs], abs=1e-4)


def test_sft_needs_no_labels(workshop, run):
    rows = workshop.examples()
    for row in rows:
        row["responses"] = [{**row["responses"][0], "preference": None}]
    folder = workshop.attempt(dataset=workshop.dataset(rows, "unlabelled"), **METHODS["sft"], training={"steps": 2})
    assert run(folder) == 0, outcome(folder)
