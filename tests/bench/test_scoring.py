"""What scoring costs, and what the cache and early stopping spare: `make bench ARGS=tests/bench/test_scoring.py`.

CPU seconds of one thread; what is compared takes turns, round by round, and the median of the rounds' ratios is told.
"""

import random
import statistics
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.worker.test_third_party import POLICY, read_transcripts
from tests.worker.workshop import Workshop, make_recipe, read_events
from worker.models.adapter import LanguageModel, adapt
from worker.models.load import load_policy
from worker.models.prompts import PromptFormat
from worker.models.template import ChatTurn
from worker.runner import main, read_spec
from worker.running.spool import Spool
from worker.running.stop import StopSignals
from worker.stages.attempt import AttemptContext
from worker.stages.examples import Encoded, EncodedResponse, Lengths, prepare
from worker.stages.prepare import lay_ground
from worker.stages.scoring.backends import NAIVE, SHARED, score_by
from worker.stages.scoring.cache import CROSS, GROUP_SIZE, Wanted, read_scores, score_in_groups
from worker.stages.scoring.cached import lay_out
from worker.stages.scoring.index import keep_index
from worker.stages.scoring.pairs import mark_pairs, own_prompts, read_rewards, score_pairs, score_until_hopeless
from worker.stages.scoring.stage import score_all
from worker.stages.training.weights import weigh
from worker.var.certificate import logprob_floors

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

ROUNDS = 2
LAMBDAS = (0.1, 0.3, 1.0)


def go_on() -> None:
    """Never stop."""


def build(vocabulary: int, layers: int = 6, width: int = 512) -> LanguageModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=8,
        intermediate_size=width * 11 // 4, eos_token_id=0, pad_token_id=1, bos_token_id=None, max_position_embeddings=1024,
    )  # fmt: skip
    return adapt(LlamaForCausalLM(config).eval())


def draw(num: int, prompt: int, response: tuple[int, int], vocabulary: int, responses: int = 1) -> list[Encoded]:
    chance = random.Random(0)

    def ids(length: int) -> "array[int]":
        return array("i", [chance.randrange(2, vocabulary) for _ in range(length)])

    def answer(k: int) -> EncodedResponse:
        return EncodedResponse(ids(chance.randint(*response)), f"{k}", None, 1 - 2 * k, k)

    return [Encoded(i, (ChatTurn("user", str(i)),), ids(prompt), tuple(answer(k) for k in range(responses))) for i in range(num)]


def seconds_of(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


@torch.inference_mode()
def run_full_passes(model: LanguageModel, batch: list[Encoded]) -> torch.Tensor:
    """What is compared with: a whole forward pass and a whole log-softmax in float32 for every pair, one by one."""
    logprob_BM = torch.zeros(len(batch), len(batch))
    for i, example in enumerate(batch):
        for j, other in enumerate(batch):
            ids_1T = torch.tensor([[*example.prompt_ids, *other.responses[0].ids]])
            logprob_TV = torch.log_softmax(model.network(input_ids=ids_1T, use_cache=False).logits[0].float(), dim=1)
            taken_T = logprob_TV[:-1].gather(1, ids_1T[0, 1:, None])[:, 0]
            logprob_BM[i, j] = taken_T[len(example.prompt_ids) - 1 :].double().sum()
    return logprob_BM


@pytest.mark.parametrize(("prompt", "vocabulary", "goal"), [(128, 4_096, 0.45), (128, 32_000, 0.45), (512, 4_096, 0.25)])
def test_cross_scoring_beside_naive_forwards(prompt, vocabulary, goal):
    torch.set_num_threads(1)
    model, batch = build(vocabulary), draw(8, prompt, (64, 128), vocabulary)
    every = torch.ones(8, 8, dtype=torch.bool)
    ways = {NAIVE: lambda: run_full_passes(model, batch), SHARED: lambda: score_by(SHARED, model, batch, every, go_on)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores = {}
    score_by(SHARED, model, batch[:1], every[:1, :1], go_on)  # warms up
    for _ in range(ROUNDS):
        for name, way in ways.items():
            seconds[name].append(seconds_of(lambda name=name, way=way: scores.update({name: way()})))
    ratio = statistics.median(a / b for a, b in zip(seconds[SHARED], seconds[NAIVE], strict=True))
    size = statistics.mean(len(response.ids) for example in batch for response in example.responses)
    k = (prompt + size) / (prompt / 8 + size)
    largest = float((scores[SHARED] - scores[NAIVE]).abs().max())
    naive, quick = (statistics.median(seconds[name]) for name in ways)
    print(
        f"\n\n8 x 8 pairs, |x| = {prompt}, |y| = {size:.0f}, vocabulary {vocabulary}: "
        f"naive {naive:.2f} s, shared {quick:.2f} s, ratio {ratio:.3f} (goal {goal}), speed-up {1 / ratio:.2f}, "
        f"k = {k:.2f}, {1 / ratio / k:.2f} of k (goal 0.9), largest difference {largest:.1g} nats"
    )
    assert ratio < 0.7
    assert largest < 0.01


@pytest.mark.shared
def test_early_stopping_on_real_text(tmp_path, shared):
    torch.set_num_threads(1)
    workshop = Workshop(tmp_path)
    dataset = workshop.dataset(read_transcripts(shared / "data/hh/helpful-base.jsonl", 48), "helpful")
    parts = {
        "policy": shared / POLICY, "dataset": dataset, "reward_folder": workshop.reward(), "training": {"batch_size": 8},
        "tokens": {"max_prompt": 96, "max_response": 150}, "evaluation": {"share": 0.0},
    }  # fmt: skip
    print(
        f"\n\n{'λ':>5}{'dropped':>9}{'RM calls / BxM':>16}{'seconds / full':>16}{'by the certificate':>20}{'with rounding':>15}"
    )
    for lambda_ in LAMBDAS:
        weights = {"preset": "paper", "lambda": lambda_}
        spent, scored = [], []
        for early in (False, True):
            folder = workshop.attempt(**parts, weights=weights, scoring={"early_stopping": early})
            with closing(Spool(folder / "events.jsonl")) as spool:
                attempt = AttemptContext(read_spec(folder), spool, StopSignals(folder))
                ground = lay_ground(attempt)
                began = time.process_time()
                scored.append(score_all(attempt, ground))
                spent.append(time.process_time() - began)
        whole, part = scored
        settings = attempt.recipe.weights

        def weights_of(logprobs: Sequence[torch.Tensor], rewards: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.cat([batch.weight_M for batch in weigh(ground.batches, logprobs, rewards, settings).batches])  # noqa: B023

        dropped = [w.masked_fill(p == -torch.inf, -torch.inf) for w, p in zip(whole.logprobs, part.logprobs, strict=True)]
        full_N = weights_of(whole.logprobs, whole.rewards)
        certified = float((weights_of(dropped, whole.rewards) - full_N).abs().max())
        rounded = float((weights_of(part.logprobs, part.rewards) - full_N).abs().max())
        assert part.facts is not None
        assert part.facts.reward is not None
        share, calls = (1 - p.num_scored / p.num_pairs for p in (part.facts.logprob, part.facts.reward))
        print(f"{lambda_:>5}{share:>9.1%}{1 - calls:>16.1%}{spent[1] / spent[0]:>16.2f}{certified:>20.1g}{rounded:>15.1g}")
        assert certified < 1e-6
        assert rounded < 1e-4


@pytest.mark.shared
def test_what_dropping_pairs_half_way_spares_the_policy(tmp_path, shared):
    """112 cross pairs of a batch of real text, by the pretrained policy and by a larger random one with the same tokenizer."""
    torch.set_num_threads(1)
    small = load_policy(shared / POLICY, dtype="float32", device="cpu")
    dataset = Workshop(tmp_path).dataset(read_transcripts(shared / "data/hh/helpful-base.jsonl", 8), "one-batch")
    recipe = make_recipe(evaluation={"share": 0.0})
    prepared = prepare(recipe, dataset, PromptFormat.choose(small.tokenizer), Lengths(128, 384, 1), lambda *_: None)
    batch, own_M = prepared.train, own_prompts(prepared.train)
    reward_M = read_rewards(recipe, batch).gather(0, own_M[None])[0]
    cross_BM = own_M != torch.arange(len(batch))[:, None]
    found: dict[str, torch.Tensor] = {}
    print()
    for name, model in (("stories260K", small.language_model), ("6 layers x 384", build(512, width=384))):
        full = seconds_of(lambda model=model: score_pairs(model, batch, cross_BM))
        own_logprob_M = score_pairs(model, batch, mark_pairs(batch, cross=False)).gather(0, own_M[None])[0]
        floor_BM = logprob_floors(own_M, own_logprob_M, reward_M, 0.3, reward_M)
        never_BM = torch.full_like(floor_BM, -torch.inf)
        stopped = seconds_of(
            lambda model=model, floor=floor_BM: found.update(sum_BM=score_until_hopeless(model, batch, cross_BM, floor))
        )
        chunked = seconds_of(lambda model=model, floor=never_BM: score_until_hopeless(model, batch, cross_BM, floor))
        dropped = float((found["sum_BM"] < floor_BM)[cross_BM].float().mean())
        print(
            f"{name}: all pairs at once {full:.2f} s; in chunks {chunked / full:.2f} of it, "
            f"with {dropped:.0%} of the pairs dropped on the way {stopped / full:.2f}"
        )
        assert stopped < chunked


def test_a_second_lambda_asks_no_model(tmp_path):
    workshop = Workshop(tmp_path)
    scorings = tmp_path / "scorings"
    rows = workshop.dataset(workshop.examples(64), "swept")
    for lambda_ in (0.3, 1.0):
        folder = workshop.attempt(
            dataset=rows, reward_folder=workshop.reward(), scorings=scorings, training={"steps": 1, "batch_size": 8},
            weights={"lambda": lambda_}, evaluation={"share": 0.0},
        )  # fmt: skip
        assert main([str(folder)]) == 0
        (event,) = read_events(folder, "scoring")
        parts = [event["payload"]["scoring"][name] for name in ("logprob", "reward")]
        calls = sum(part["num_scored"] for part in parts if not part["hit"])
        print(f"\nλ = {lambda_}: {calls} pairs asked of a model", end="")
    assert calls == 0


def test_bytes_of_a_cached_pair(tmp_path):
    print()
    for batch_size in (2, 8, 32):
        batches = [draw(batch_size, 4, (4, 8), 100, responses=2) for _ in range(4096 // batch_size)]
        layout = lay_out(batches)
        for kind in ("logprob", "reward"):
            wanted = Wanted(kind, {"b": str(batch_size)}, {}, CROSS)
            scores = torch.zeros(batch_size, 2 * batch_size)
            score_in_groups(tmp_path / str(batch_size), wanted, layout, lambda _, scores=scores: (scores, 0), lambda *_: None)
        keep_index(tmp_path / str(batch_size), batches, "model")
        size = sum(path.stat().st_size for path in (tmp_path / str(batch_size)).rglob("*") if path.is_file())
        pairs = layout.count_pairs(CROSS)
        print(f"B = {batch_size}: {pairs} prompt-response pairs, {size / pairs:.2f} bytes each, index and manifests included")
        assert size <= 16 * pairs


def test_what_a_kill_loses(tmp_path):
    batches = [draw(4, 4, (4, 8), 100) for _ in range(5 * GROUP_SIZE)]
    layout, wanted, at = lay_out(batches), Wanted("logprob", {}, {}, CROSS), 3 * GROUP_SIZE + 7

    def die(k: int) -> tuple[torch.Tensor, int]:
        if k == at:
            raise InterruptedError
        return torch.zeros(4, 4), 16

    with pytest.raises(InterruptedError):
        score_in_groups(tmp_path, wanted, layout, die, lambda *_: None)
    again: list[int] = []
    score_in_groups(tmp_path, wanted, layout, lambda k: (again.append(k), (torch.zeros(4, 4), 16))[1], lambda *_: None)
    lost = at - min(again)
    print(f"\nkilled in batch {at} of {len(batches)}: {lost} scored batches lost, a group has {GROUP_SIZE}")
    assert lost < GROUP_SIZE


def score_plan(model: LanguageModel, folder: Path, examples: list[Encoded], batch_size: int) -> tuple[float, int, int]:
    """CPU seconds of a whole pass with its artifact and index, pairs, and tokens when every prompt is encoded once a batch."""
    batches = [examples[at : at + batch_size] for at in range(0, len(examples), batch_size)]
    layout = lay_out(batches)
    wanted = Wanted("logprob", {"B": str(batch_size), "n": str(len(examples))}, {}, CROSS)

    def score(k: int) -> tuple[torch.Tensor, int]:
        every = torch.ones(len(batches[k]), len(layout.own[k]), dtype=torch.bool)
        return score_by(SHARED, model, batches[k], every, go_on), every.numel()

    def whole() -> None:
        score_in_groups(folder, wanted, layout, score, lambda *_: None)
        keep_index(folder, batches, "model")

    seconds = seconds_of(whole)
    assert len(read_scores(folder, wanted.key).scores) == layout.count_pairs(CROSS)
    prompts = sum(len(example.prompt_ids) for example in examples)
    answers = sum(len(batch) * sum(len(r.ids) for e in batch for r in e.responses) for batch in batches)
    return seconds, layout.count_pairs(CROSS), prompts + answers


def test_scoring_grows_with_the_tokens(tmp_path):
    torch.set_num_threads(1)
    model = build(512, layers=2, width=64)
    score_plan(model, tmp_path / "warm", draw(16, 32, (16, 48), 512, responses=2), 8)
    print(f"\n\n{'B':>5}{'prompts':>9}{'pairs':>9}{'tokens':>10}{'seconds':>9}{'µs a token':>12}")
    costs: dict[str, list[float]] = {"B": [], "pairs": []}
    plans = [("B", 128, size) for size in (2, 4, 8, 16, 32)] + [("pairs", num, 8) for num in (64, 640, 6_400)]
    for name, num, batch_size in plans:
        examples = draw(num, 32, (16, 48), 512, responses=2)
        seconds, pairs, tokens = score_plan(model, tmp_path / f"{name}-{num}-{batch_size}", examples, batch_size)
        costs[name].append(seconds / tokens)
        print(f"{batch_size:>5}{num:>9}{pairs:>9}{tokens:>10}{seconds:>9.2f}{1e6 * seconds / tokens:>12.2f}")
    for spent in costs.values():
        assert max(spent) < 3 * min(spent)
