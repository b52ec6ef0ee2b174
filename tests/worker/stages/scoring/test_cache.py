import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.domain.run import Outcome
from worker.running.stop import Stopped
from worker.stages.scoring.artifacts import lock
from worker.stages.scoring.cache import CROSS, EARLY, GROUP_SIZE, OWN, Layout, Wanted, find_scoring, read_scores, score_in_groups
from worker.stages.scoring.cached import explain_miss
from worker.stages.scoring.index import keep_index, read_index

FACTS = {
    "data": "d" * 64, "pool": "p" * 64, "held_out_share": "0.05", "held_out_seed": "0", "weights": "w" * 64, "dtype": "float32",
    "max_prompt": "512", "batch_size": "2", "seed": "0",
}  # fmt: skip
WANTED = Wanted("logprob", {"weights": "w", "tokens": "t"}, FACTS, CROSS)
NUM = 2 * GROUP_SIZE + 3
LAYOUT = Layout([torch.tensor([0, 0, 1, 1])] * NUM, [2] * NUM)


def score(k: int) -> tuple[torch.Tensor, int]:
    return torch.arange(8.0).view(2, 4) + 10 * k, 8


def score_all(folder: Path, how=score, wanted: Wanted = WANTED, layout: Layout = LAYOUT):
    return score_in_groups(folder, wanted, layout, how, lambda *_: None, backend=lambda: "shared")


def go_on() -> None:
    """Never stop."""


def matrices(found) -> list[torch.Tensor]:
    return LAYOUT.unflatten(0, NUM, found.raw, found.manifest.extent)


def test_a_finished_scoring_is_found_again_and_leaves_nothing_else(tmp_path):
    assert find_scoring(tmp_path, WANTED) is None
    made, found = score_all(tmp_path), find_scoring(tmp_path, WANTED)
    assert found is not None
    assert torch.equal(made.scores, found.scores)
    assert all(torch.equal(matrix, score(k)[0]) for k, matrix in enumerate(matrices(found)))
    assert [path.name for path in tmp_path.iterdir()] == [WANTED.key]
    assert (found.manifest.num_pairs, found.manifest.num_scored, found.manifest.backend) == (8 * NUM, 8 * NUM, "shared")
    assert read_scores(tmp_path, WANTED.key).scores.dtype == torch.float32


@pytest.mark.parametrize("late", [0, 5, GROUP_SIZE - 1])
def test_a_killed_pass_loses_at_most_one_group(tmp_path, late):
    def die_late(k: int) -> tuple[torch.Tensor, int]:
        if k == GROUP_SIZE + late:
            raise InterruptedError
        return score(k)

    with pytest.raises(InterruptedError):
        score_all(tmp_path, die_late)
    asked = []
    made = score_all(tmp_path, lambda k: asked.append(k) or score(k))
    assert asked == list(range(GROUP_SIZE, NUM))
    assert made.manifest.num_scored == 8 * NUM


def test_a_damaged_group_is_scored_again(tmp_path):
    def die_last(k: int) -> tuple[torch.Tensor, int]:
        if k == NUM - 1:
            raise InterruptedError
        return score(k)

    with pytest.raises(InterruptedError):
        score_all(tmp_path, die_last)
    group = tmp_path / f"{WANTED.key}.partial" / "group-00000.safetensors"
    group.write_bytes(group.read_bytes()[:-4])
    asked = []
    score_all(tmp_path, lambda k: asked.append(k) or score(k))
    assert asked == [*range(GROUP_SIZE), *range(2 * GROUP_SIZE, NUM)]


@pytest.mark.parametrize("part", ["scores.safetensors", "manifest.json"])
def test_a_damaged_scoring_is_made_again(tmp_path, part):
    score_all(tmp_path)
    path = tmp_path / WANTED.key / part
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert find_scoring(tmp_path, WANTED) is None
    with pytest.raises(FileNotFoundError, match="gone or damaged"):
        read_scores(tmp_path, WANTED.key)
    score_all(tmp_path)
    assert find_scoring(tmp_path, WANTED) is not None


def test_two_runs_that_score_the_same_agree(tmp_path):
    def meanwhile(k: int) -> tuple[torch.Tensor, int]:
        if k == NUM - 1:
            score_all(tmp_path)  # another run finishes first
        return score(k)

    score_all(tmp_path, meanwhile)
    assert find_scoring(tmp_path, WANTED) is not None
    assert [path.name for path in tmp_path.iterdir()] == [WANTED.key]


def test_all_pairs_serve_a_run_that_needs_own_ones_but_not_the_other_way_round(tmp_path):
    own = replace(WANTED, extent=OWN)
    score_all(tmp_path, wanted=own)
    assert find_scoring(tmp_path, WANTED) is None
    found = find_scoring(tmp_path, own)
    assert found is not None
    assert len(found.scores) == 4 * NUM
    assert matrices(found)[1].isnan().tolist() == [[False, False, True, True], [True, True, False, False]]
    score_all(tmp_path / "other")
    whole = find_scoring(tmp_path / "other", own)
    assert whole is not None
    assert whole.manifest.extent == CROSS


def test_scores_stopped_early_serve_larger_lambdas_and_own_pairs(tmp_path):
    early = replace(WANTED, extent=EARLY, smallest_lambda=0.3, stopping="rewards")
    score_all(tmp_path, wanted=early)

    def served(**changes) -> bool:
        return find_scoring(tmp_path, replace(early, **changes)) is not None

    assert served()
    assert served(smallest_lambda=1.0)
    assert served(extent=OWN, smallest_lambda=None, stopping="")
    assert not served(smallest_lambda=0.1)
    assert not served(stopping="other rewards")
    assert not served(extent=CROSS)
    score_all(tmp_path)
    assert served(smallest_lambda=0.1, stopping="other rewards")  # all pairs serve any λ


def test_a_miss_is_explained_by_what_differs_from_the_nearest(tmp_path):
    def explain(wanted: Wanted = WANTED, **facts: str) -> str:
        identity = {**wanted.identity, **facts}
        return explain_miss(tmp_path, replace(wanted, identity=identity, facts={**FACTS, **facts}))

    assert explain() == "No log-probabilities are kept yet."
    score_all(tmp_path)
    assert explain(dtype="bfloat16") == (
        "The nearest kept log-probabilities differ in the number type (float32 there, bfloat16 here)."
    )
    assert explain(weights="v" * 64, max_prompt="256") == (
        "The nearest kept log-probabilities differ in the model's weights and the longest prompt (512 there, 256 here)."
    )
    assert "another version of a library" in explain(tokens="u")
    assert explain(data="e" * 64, held_out_share="0.1") == (
        "The nearest kept log-probabilities differ in the held-out share (0.05 there, 0.1 here)."
    )
    assert "another version of a library" in explain(tokens="u", held_out_share="0.1")  # the same examples for all that
    assert explain(data="e" * 64, pool="q" * 64).endswith("differ in the examples.")
    assert explain(replace(WANTED, kind="reward")) == "No rewards are kept yet."
    score_all(tmp_path, wanted=replace(WANTED, identity={}, facts={**FACTS, "dtype": "bfloat16"}, extent=OWN))
    assert explain(replace(WANTED, identity={}), dtype="bfloat16").endswith("and those of other prompts are needed too.")


def test_who_waits_for_a_lock_is_told_once_and_may_still_stop(tmp_path):
    told = []

    def stop() -> None:
        raise Stopped(Outcome.CANCELLED, "cancelled by the user")

    with lock(tmp_path, "k", check=go_on, waiting=go_on):
        held = os.open(tmp_path / ".k.lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(held)
        with pytest.raises(Stopped), lock(tmp_path, "k", check=stop, waiting=lambda: told.append("waits")):
            pass
    assert told == ["waits"]
    assert list(tmp_path.iterdir()) == []


def test_the_index_gives_every_response_its_place(tmp_path, batches):
    key = keep_index(tmp_path, batches, "preference").key
    index = read_index(tmp_path, key)
    assert keep_index(tmp_path, batches, "preference").key == key
    examples = [(k, i, example) for k, batch in enumerate(batches) for i, example in enumerate(batch)]
    responses = [(k, i, example, r) for k, i, example in examples for r in example.responses]
    assert index.num_prompts_B.tolist() == [len(batch) for batch in batches]
    assert index.batch_N.tolist() == [k for k, *_ in responses]
    assert index.own_N.tolist() == [i for _, i, *_ in responses]
    assert index.example_id_N.tolist() == [example.example_id for *_, example, _ in responses]
    assert index.response_N.tolist() == [r.number for *_, r in responses]
    assert index.preference_N.tolist() == [r.preference for *_, r in responses]
    assert index.num_tokens_N.tolist() == [len(r.ids) for *_, r in responses]
    assert index.data_reward_N.tolist() == [float(r.preference) for *_, r in responses]
    dtypes = [index.batch_N, index.example_id_N, index.response_N, index.preference_N, index.data_reward_N, index.same_N]
    assert [t.dtype for t in dtypes] == [torch.int32, torch.int64, torch.int16, torch.int8, torch.float32, torch.int64]
    texts = [(k, r.content) for k, *_, r in responses]
    same = index.same_N.tolist()
    assert all((a == b) == (s == t) for a, s in zip(texts, same, strict=True) for b, t in zip(texts, same, strict=True))
    assert read_index(tmp_path, keep_index(tmp_path, batches, "model").key).data_reward_N.isnan().all()


def test_own_scores_stand_where_the_index_says(tmp_path, batches):
    index = read_index(tmp_path, keep_index(tmp_path, batches, "model").key)
    own = [torch.tensor([i for i, example in enumerate(batch) for _ in example.responses]) for batch in batches]
    layout = Layout(own, [len(batch) for batch in batches])
    made = [torch.rand(len(batch), len(own_M)) for batch, own_M in zip(batches, own, strict=True)]
    whole = score_all(tmp_path, lambda k: (made[k], made[k].numel()), layout=layout)
    part = score_all(tmp_path, lambda k: (made[k], len(own[k])), wanted=replace(WANTED, extent=OWN), layout=layout)
    assert torch.equal(whole.scores[index.places], part.scores)
    assert len(part.scores) == layout.count_pairs(OWN)


@pytest.mark.parametrize("batch_size", [2, 8, 32])
def test_a_scored_pair_costs_at_most_sixteen_bytes_in_all(tmp_path, batches, batch_size):
    """Both kinds of score and the index, for 20 000 preference pairs."""
    num_batches = 20_000 // batch_size
    pattern = [replace(example, example_id=k) for k, example in enumerate([e for b in batches for e in b] * 2_000)]
    plan = [pattern[k * batch_size : (k + 1) * batch_size] for k in range(num_batches)]
    own_M = torch.arange(batch_size).repeat_interleave(2)
    layout = Layout([own_M] * num_batches, [batch_size] * num_batches)
    for kind in ("logprob", "reward"):
        scores = torch.zeros(batch_size, 2 * batch_size)
        score_all(tmp_path, lambda _, scores=scores: (scores, 0), replace(WANTED, kind=kind), layout)
    keep_index(tmp_path, plan, "model")
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size <= 16 * layout.count_pairs(CROSS)
