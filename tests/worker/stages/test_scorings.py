import hashlib

import pytest
import torch

from worker.stages.scorings import GROUP_SIZE, find_scoring, make_key, score_in_groups

KEY = make_key("logprob", {"dtype": "float32"}, hashlib.sha256(b"tokens"))
NUM = 2 * GROUP_SIZE + 3


def tensor(k: int) -> torch.Tensor:
    return torch.full((2, 4), float(k))


def score_all(folder, score=tensor) -> list[torch.Tensor]:
    return score_in_groups(folder, KEY, NUM, score, lambda *_: None)


def test_a_finished_scoring_is_found_again_and_leaves_nothing_else(tmp_path):
    assert find_scoring(tmp_path, KEY, NUM) is None
    results = score_all(tmp_path)
    found = find_scoring(tmp_path, KEY, NUM)
    assert found is not None
    assert all(torch.equal(a, b) for a, b in zip(results, found, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == [KEY]


def test_a_killed_pass_loses_at_most_one_group(tmp_path):
    def die_late(k: int) -> torch.Tensor:
        if k == GROUP_SIZE + 5:
            raise InterruptedError
        return tensor(k)

    with pytest.raises(InterruptedError):
        score_all(tmp_path, die_late)
    asked = []
    score_all(tmp_path, lambda k: asked.append(k) or tensor(k))
    assert asked == list(range(GROUP_SIZE, NUM))


def test_a_damaged_scoring_is_made_again(tmp_path):
    score_all(tmp_path)
    path = tmp_path / KEY / "scores.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert find_scoring(tmp_path, KEY, NUM) is None
    score_all(tmp_path)
    assert find_scoring(tmp_path, KEY, NUM) is not None


def test_a_pair_costs_four_bytes(tmp_path):
    score_in_groups(tmp_path, KEY, 4, lambda _: torch.zeros(64, 128), lambda *_: None)
    size = (tmp_path / KEY / "scores.safetensors").stat().st_size
    assert size < 4 * 4 * 64 * 128 + 1000


def test_two_runs_that_score_the_same_agree(tmp_path):
    def meanwhile(k: int) -> torch.Tensor:
        if k == NUM - 1:
            score_all(tmp_path)  # another run finishes first
        return tensor(k)

    score_all(tmp_path, meanwhile)
    assert find_scoring(tmp_path, KEY, NUM) is not None
    assert [path.name for path in tmp_path.iterdir()] == [KEY]


def test_the_key_covers_kind_facts_and_content():
    keys = {
        make_key(kind, {"dtype": dtype}, hashlib.sha256(content))
        for kind in ("logprob", "reward") for dtype in ("float32", "bfloat16") for content in (b"a", b"b")
    }  # fmt: skip
    assert len(keys) == 8
