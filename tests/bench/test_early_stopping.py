"""What certified early stopping of the cross terms would save: `make bench ARGS=tests/bench/test_early_stopping.py`.

Summed log-probabilities only fall as tokens are added, so pair (i, j) may be dropped at the first token t where
Σ_{s≤t} log π_ref(y_js|x_i) + R/λ < best_i − τ, R the largest reward and best_i the best of prompt i's own responses
(method.md, section 6.4). A small pretrained policy on real preferences; rewards are z-scored labels or ratings.
"""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.worker.test_third_party import POLICY, read_transcripts
from tests.worker.workshop import Workshop, make_recipe
from worker.models.adapter import LanguageModel
from worker.models.load import load_policy
from worker.models.prefix import run_continuations
from worker.models.prompts import PromptFormat
from worker.stages.batches import plan_batches
from worker.stages.examples import Encoded, Lengths, prepare
from worker.stages.scoring.pairs import own_prompts, read_rewards
from worker.var.logprobs import token_logprobs

pytestmark = [pytest.mark.bench, pytest.mark.shared, pytest.mark.timeout(900)]

TAU, PROMPTS, BATCH, CHUNK = 25.0, 96, 8, 32
LAMBDAS = (0.1, 0.3, 1.0)


def read_rated(path: Path, num: int) -> list[dict]:
    """The first pairs of UltraFeedback with their ratings."""
    rows = []
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines()[:num], start=1):
        row = json.loads(text)
        responses = [
            {"content": row[key], "rating": row["metadata"][f"score_{key}"], "preference": sign}
            for key, sign in (("chosen", 1), ("rejected", -1))
        ]
        prompt = [{"role": "user", "content": row["prompt"]}]
        rows.append({"example_id": line, "line": line, "prompt": prompt, "responses": responses})
    return rows


@torch.inference_mode()
def partial_sums(model: LanguageModel, batch: list[Encoded]) -> dict[tuple[int, int], Tensor]:
    """For every prompt i and response j: Σ_{s≤t} log π_ref(y_js|x_i) over t, [T]."""
    responses = [response.ids for example in batch for response in example.responses]
    pairs = [(i, j) for i in range(len(batch)) for j in range(len(responses))]
    tails = [(i, [*batch[i].prompt_ids[-1:], *responses[j][:-1]]) for i, j in pairs]
    sums = {}
    for part in run_continuations(model, [example.prompt_ids[:-1] for example in batch], tails):
        for hidden_TD, length, row in zip(part.hidden_RTD, part.length_R.tolist(), part.rows, strict=True):
            target_T = torch.tensor(responses[pairs[row][1]])
            sums[pairs[row]] = token_logprobs(hidden_TD[:length], model.head.weight_VD, target_T).double().cumsum(0)
    return sums


def count_dropped(
    sums: dict[tuple[int, int], Tensor], own: list[int], reward_M: Tensor, bound: float, lambda_: float, *, mean: bool
) -> Counter:
    """Cross pairs and tokens of one batch, and how many of them need not be computed; no reward is above `bound`."""
    counts: Counter = Counter()
    score = {pair: (sum_T / len(sum_T) if mean else sum_T) for pair, sum_T in sums.items()}
    for i in range(max(own) + 1):
        best = max(float(score[i, j][-1] + reward_M[j] / lambda_) for j in range(len(own)) if own[j] == i)
        full_M = torch.stack([score[i, j][-1] + reward_M[j] / lambda_ for j in range(len(own))])
        kept_M = full_M.clone()
        for j in range(len(own)):
            if own[j] == i:
                continue
            num = len(score[i, j])
            hopeless = (score[i, j] + bound / lambda_ < best - TAU).nonzero()
            needed = int(hopeless[0]) + 1 if len(hopeless) else num
            counts += Counter(
                pairs=1, tokens=num, dropped=len(hopeless) > 0, spared=num - needed,
                chunks=num - min(num, -(-needed // CHUNK) * CHUNK),
            )  # fmt: skip
            if len(hopeless):
                kept_M[j] = -torch.inf
        assert (full_M.softmax(0) - kept_M.softmax(0)).abs().max() < 1e-9
    return counts


@pytest.mark.parametrize(
    ("name", "read", "source"),
    [
        ("hh/helpful-base.jsonl", read_transcripts, "preference"),
        ("ultrafeedback/train_clean.first700.jsonl", read_rated, "rating"),
    ],
    ids=["hh", "ultrafeedback"],
)
def test_how_many_cross_pairs_need_not_be_scored(tmp_path, shared, name, read, source):
    policy = load_policy(shared / POLICY, dtype="float32", device="cpu")
    recipe = make_recipe(reward={"source": source}, evaluation={"share": 0.0})
    dataset = Workshop(tmp_path).dataset(read(shared / "data" / name, PROMPTS), f"stopping-{source}")
    prepared = prepare(recipe, dataset, PromptFormat.choose(policy.tokenizer), Lengths(128, 384, 1), lambda *_: None)
    plan = plan_batches(len(prepared.train), BATCH, seed=0)
    batches = [[prepared.train[i] for i in places] for places in plan]
    own = [own_prompts(batch) for batch in batches]
    rewards = [read_rewards(recipe, batch).gather(0, o[None])[0].double() for batch, o in zip(batches, own, strict=True)]
    every = torch.cat(rewards)
    rewards = [(reward_M - every.mean()) / every.std(correction=0) for reward_M in rewards]
    bound = float(torch.cat(rewards).max())
    sums = [partial_sums(policy.language_model, batch) for batch in batches]
    lengths = sorted(len(response.ids) for batch in batches for example in batch for response in example.responses)
    quartiles = [lengths[len(lengths) * k // 4] for k in (1, 2, 3)]
    print(f"\n\n{name}: {len(prepared.train)} prompts, batches of {BATCH}, response tokens in quartiles {quartiles}, τ = {TAU:g}")
    print(f"{'weight':<6}{'λ':>5}{'R/λ':>7}{'pairs dropped':>15}{'tokens spared':>15}{f'in chunks of {CHUNK}':>17}")
    for mean in (False, True):
        for lambda_ in LAMBDAS:
            total: Counter = Counter()
            for sum_, own_M, reward_M in zip(sums, own, rewards, strict=True):
                total += count_dropped(sum_, own_M.tolist(), reward_M, bound, lambda_, mean=mean)
            pairs, tokens, chunks = total["dropped"] / total["pairs"], *(total[k] / total["tokens"] for k in ("spared", "chunks"))
            form = "mean" if mean else "sum"
            print(f"{form:<6}{lambda_:>5}{bound / lambda_:>7.1f}{pairs:>15.1%}{tokens:>15.1%}{chunks:>17.1%}")
