import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from app.domain.jobs import ModelSource
from tests.worker.workshop import make_recipe
from worker.stages.judging import find_seen, judging_findings, keep_learned


def source(folder):
    return None if folder is None else ModelSource(source="folder", path=str(folder))


def judged(reward, judge=None, further=(), **parts):
    """What is found of an attempt whose rewards come from one folder or several, and the judgement from another."""
    recipe = make_recipe(reward is not None, **parts)
    return lambda held_out: {
        finding.name: finding.evidence
        for finding in judging_findings(
            SimpleNamespace(
                recipe=recipe,
                spec=SimpleNamespace(reward=source(reward), further=tuple(map(source, further)), judge=source(judge), hub_dir=""),
            ),
            held_out,
        )
    }


@pytest.fixture
def held_out(batches):
    return [replace(example, opening=1000 + k) for k, example in enumerate(example for batch in batches for example in batch)]


@pytest.fixture
def folder(workshop, tmp_path):
    return shutil.copytree(workshop.reward(), tmp_path / "reward")


def test_a_judge_that_knows_held_out_conversations_is_told_with_how_many(folder, held_out, workshop):
    keep_learned(folder, [*held_out[:3], replace(held_out[5], opening=7), held_out[0]])
    said = f"3 of {len(held_out)} held-out examples"
    assert find_seen(folder, held_out).startswith(said)
    assert judged(None, folder)(held_out)["judge_saw_held_out"].startswith(said)
    assert find_seen(folder, held_out[3:]) is None
    assert find_seen(workshop.reward(), held_out) is None  # one that was not trained here says nothing
    (folder / "conversations.parquet").write_bytes(b"torn")
    assert find_seen(folder, held_out) is None


def test_a_judge_that_is_what_the_policy_learns_from_is_told(folder, held_out, workshop):
    reward = workshop.reward()
    assert "judge_is_reward" in judged(reward)(held_out)
    assert "judge_is_reward" in judged(reward, folder)(held_out)  # a copy of it
    assert "judge_is_reward" in judged(workshop.reward(seed=8), folder, [workshop.reward(seed=9), reward])(held_out)
    assert judged(reward, workshop.reward(seed=8), [workshop.reward(seed=9)])(held_out) == {}
    assert judged(reward, method="sft", weights={})(held_out) == {}
    assert judged(None, folder)(held_out) == {}
    assert judged(reward)([]) == {}
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    assert judged(reward, folder)(held_out) == {}
