"""A run's numbers, computed once more by plain transformers and plain Python, one conversation at a time.

Each recorded log π_ref, reward and weight, and the loss of every batch, for each preset and each source of rewards. None of the
studio's own code has a part in it.
"""

import math
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from app.domain.weighting import Preset
from tests.worker.test_runner import artifacts, series
from tests.worker.workshop import fork_runner

LAMBDA = 0.7
STANDING_STILL = 1e-12  # a learning rate that leaves every step's policy the reference


class Recomputed:
    """The models in plain form."""

    def __init__(self, policy_folder, reward_folder) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(policy_folder)
        self.policy = AutoModelForCausalLM.from_pretrained(policy_folder).eval()
        self.reward_tokenizer = AutoTokenizer.from_pretrained(reward_folder)
        self.judge = AutoModelForSequenceClassification.from_pretrained(reward_folder).eval()

    @torch.inference_mode()
    def logprobs(self, prompt: list[dict[str, str]], answer: str) -> list[float]:
        """log π(token) of all that the template writes behind the prompt, up to the end of the turn."""
        asked = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        whole = self.tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": answer}], return_dict=False)
        end = len(whole) - whole[::-1].index(self.tokenizer.eos_token_id)
        assert whole[: len(asked)] == asked
        logits = self.policy(torch.tensor([whole[:end]])).logits[0].double()
        predicted = torch.log_softmax(logits[len(asked) - 1 : end - 1], dim=1)
        return [float(predicted[k, token]) for k, token in enumerate(whole[len(asked) : end])]

    @torch.inference_mode()
    def reward(self, prompt: list[dict[str, str]], answer: str) -> float:
        assert [message["role"] for message in prompt] == ["user"]
        text = f"\n\nHuman: {prompt[0]['content']}\n\nAssistant: {answer}"
        return float(self.judge(torch.tensor([self.reward_tokenizer(text)["input_ids"]])).logits)


@pytest.fixture(scope="module")
def recomputed(workshop):
    return Recomputed(workshop.policy(chat=True), workshop.reward())


def weigh(preset: str, rewards: list[list[float]], logprobs: list[list[list[float]]], own: list[int]) -> list[float]:
    """The weight of each response j, from r(x_i, y_j) and the tokens' log π_ref(y_j|x_i): the definitions, in plain Python."""
    num = len(own)
    weights = []
    for j in range(num):
        i = own[j]
        if preset in ("paper", "length_normalised"):
            norm = sum if preset == "paper" else lambda values: sum(values) / len(values)
            terms = [norm(logprobs[i][k]) + rewards[i][k] / LAMBDA for k in range(num)]
            largest = max(terms)
            weights.append(math.exp(terms[j] - largest) / sum(math.exp(term - largest) for term in terms))
        elif preset == "within_prompt":
            rivals = [math.exp(rewards[i][k] / LAMBDA) for k in range(num) if own[k] == i]
            weights.append(math.exp(rewards[i][j] / LAMBDA) / (sum(rivals) / len(rivals)))
        else:
            weights.append(math.exp(rewards[i][j] / LAMBDA))
    if preset == "paper":
        return weights
    return [weight * num / sum(weights) for weight in weights]


def find_loss(preset: str, weights: list[float], own_logprobs: list[list[float]]) -> float:
    total = -sum(weight * sum(tokens) for weight, tokens in zip(weights, own_logprobs, strict=True))
    return total / (len(weights) if preset == "paper" else sum(map(len, own_logprobs)))


@pytest.mark.parametrize("source", ["model", "rating", "preference"])
@pytest.mark.parametrize("preset", [preset.value for preset in Preset if preset is not Preset.DRAWS])  # these: test_draws.py
def test_recorded_numbers_are_those_of_plain_transformers(workshop, recomputed, preset, source):
    rows = workshop.examples(6)
    parts: dict[str, Any] = {"weights": {"preset": preset, "lambda": LAMBDA}, "reward": {"source": source}}
    if source == "model":
        parts |= {"reward_folder": workshop.reward(), "reward": {}}
    elif preset in ("paper", "length_normalised"):
        parts["weights"]["cross_reward"] = "reuse"
    training = {"batch_size": 3, "epochs": 1, "learning_rate": STANDING_STILL}
    folder = workshop.attempt(
        dataset=workshop.dataset(rows, "recomputed"), policy=workshop.policy(chat=True), training=training,
        evaluation={"share": 0.0, "every": None}, **parts,
    )  # fmt: skip
    process = fork_runner(folder)
    process.join()
    assert process.exitcode == 0, (folder / "log.txt").read_text()
    recorded = pq.read_table(artifacts(folder) / "weights.parquet").to_pylist()
    losses = []
    for number in {row["batch"] for row in recorded}:
        batch = [row for row in recorded if row["batch"] == number]
        asked = list(dict.fromkeys(row["example_id"] for row in batch))
        own = [asked.index(row["example_id"]) for row in batch]
        answers = [rows[row["example_id"]]["responses"][row["response"]] for row in batch]
        prompts = [rows[k]["prompt"] for k in asked]
        logprobs = [[recomputed.logprobs(prompt, answer["content"]) for answer in answers] for prompt in prompts]
        if source == "model":
            rewards = [[recomputed.reward(prompt, answer["content"]) for answer in answers] for prompt in prompts]
        else:
            rewards = [[float(answer[source]) for answer in answers]] * len(prompts)
        weights = weigh(preset, rewards, logprobs, own)
        for j, row in enumerate(batch):
            assert row["num_tokens"] == len(logprobs[own[j]][j])
            assert row["logprob_ref"] == pytest.approx(sum(logprobs[own[j]][j]), rel=2e-5, abs=2e-4)
            assert row["reward"] == pytest.approx(rewards[own[j]][j], rel=1e-4, abs=1e-4)
            assert row["weight"] == pytest.approx(weights[j], rel=2e-3, abs=1e-6)
        losses.append(find_loss(preset, weights, [logprobs[own[j]][j] for j in range(len(batch))]))
    told = [line["metrics"]["loss"] for line in series(folder)]
    assert sorted(told) == pytest.approx(sorted(losses), rel=1e-3)
