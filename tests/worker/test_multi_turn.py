"""Prompts of several turns: training and evaluation are about the last answer, by chat template and by plain turns."""

import json

import pytest
import torch

from tests.help_desk import KIND, RUDE
from tests.worker.test_runner import artifacts, outcome
from tests.worker.workshop import make_recipe, read_events
from worker.models.load import load_policy
from worker.models.prompts import PromptFormat
from worker.stages.batches import split_batch
from worker.stages.examples import Lengths, prepare
from worker.stages.training.gradients import accumulate_weighted
from worker.stages.training.objectives import plain_batches
from worker.stages.training.reward_model import ConversationEncoder

EARLIER = "Since when does it do that?"


def conversations(num: int = 12) -> list[dict]:
    rows = []
    for k in range(num):
        prompt = [
            {"role": "user", "content": f"the map costs too much {k}"},
            {"role": "assistant", "content": EARLIER},
            {"role": "user", "content": f"my order arrived late {k}"},
        ]
        answers = ((KIND[0], 1), (RUDE[k % 2], -1))
        responses = [{"content": content, "rating": None, "preference": label} for content, label in answers]
        rows.append({"example_id": k, "line": k + 1, "prompt": prompt, "responses": responses})
    return rows


@pytest.fixture(params=["plain", "chat"])
def chat(request) -> bool:
    return request.param == "chat"


@pytest.fixture
def prepared(workshop, chat):
    """A policy with or without a chat template, its format, and the encoded conversations."""
    policy = load_policy(workshop.policy(chat=chat), dtype="float32", device="cpu")
    prompt_format = PromptFormat.choose(policy.tokenizer)
    dataset = workshop.dataset(conversations(), "conversations")
    recipe = make_recipe(tokens={"max_prompt": 160})
    return policy, prompt_format, prepare(recipe, dataset, prompt_format, Lengths(160, 48, 12), lambda *_: None)


def test_only_the_last_answers_tokens_are_in_the_loss(prepared, chat):
    policy, prompt_format, examples = prepared
    batch = examples.train[:3]
    for packs in (False, True):
        (micro,) = split_batch(batch, torch.ones(6, dtype=torch.bool), None, packs=packs)
        targets = [prompt_format.tokenizer.decode(micro.rows.target_N[micro.rows.owner_N == row].tolist()) for row in range(6)]
        wanted = [response.content for example in batch for response in example.responses]
        lead = "" if chat else " "
        assert sorted(targets) == sorted(f"{lead}{content}<eos>" for content in wanted)
    (whole,) = plain_batches([batch], make_recipe(method="sft").weights)
    loss = float(accumulate_weighted(policy.language_model, whole, None).loss)
    policy.language_model.network.zero_grad()
    total, num = 0.0, 0
    for example in batch:
        for response in example.responses:
            ids = torch.tensor([[*example.prompt_ids, *response.ids]])
            logprob = torch.log_softmax(policy.language_model.network(ids).logits[0].detach(), dim=1)
            places = range(len(example.prompt_ids) - 1, ids.shape[1] - 1)
            total -= sum(float(logprob[place, ids[0, place + 1]]) for place in places)
            num += len(response.ids)
    assert loss == pytest.approx(total / num, rel=1e-4)


def test_earlier_turns_are_read_but_not_trained_on(prepared, chat):
    _, prompt_format, examples = prepared
    text = prompt_format.tokenizer.decode(examples.train[0].prompt_ids)
    assert EARLIER in text
    k = examples.train[0].example_id
    end = f"my order arrived late {k}<eos>\n<|assistant|>\n" if chat else f"Human: my order arrived late {k}\n\nAssistant:"
    assert text.endswith(end)


def test_a_reward_model_reads_the_whole_conversation(prepared):
    _, prompt_format, examples = prepared
    batch = ConversationEncoder(prompt_format, 500).read(examples.train[:1])
    for ids, response in zip(batch.ids, examples.train[0].responses, strict=True):
        text = prompt_format.tokenizer.decode(ids)
        assert text.index("costs too much") < text.index(EARLIER) < text.index("arrived late") < text.index(response.content)


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_samples_answer_the_last_turn(workshop, run, chat, method):
    folder = workshop.attempt(
        dataset=workshop.dataset(conversations(), "conversations"), policy=workshop.policy(chat=chat), method=method,
        weights={"lambda": None, "responses": "chosen"}, tokens={"max_prompt": 160}, training={"steps": 24, "epochs": None},
        evaluation={"max_new_tokens": 45, "every": 24, "temperature": 0},
    )  # fmt: skip
    assert run(folder) == 0, outcome(folder)
    for sample in (event["payload"] for event in read_events(folder, "sample")):
        assert [turn["role"] for turn in sample["prompt"]] == ["user", "assistant", "user"]
        assert sample["prompt"][1]["content"] == EARLIER
        assert "arrived late" in sample["prompt"][2]["content"]
    kept = [json.loads(line) for line in (artifacts(folder) / "samples.jsonl").read_text().splitlines()]
    assert [sample["set"] for sample in kept] == ["validation", "test", "test"]
    if method == "sft":  # it has learned what to say there, and to end
        assert {sample["policy"]["text"] for sample in kept} == {KIND[0]}
