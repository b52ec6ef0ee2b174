"""A sweep through the whole studio, two runs at a time: scored once, stopped half-way, resumed, compared.

The preset is `paper`, whose scoring may stop early: one pass must serve the smallest λ, and the baseline that needs own pairs.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.box import tiny
from tests.flow.studio import Studio, running_studio
from tests.waiting import wait_until

SMALL: dict[str, Any] = {
    "tokens": {"max_prompt": 96, "max_response": 80},
    "training": {"batch_size": 4, "steps": 12, "learning_rate": 1e-3, "checkpoint_every": 2},
    "evaluation": {"share": 0.2, "every": 4, "num_prompts": 4, "num_samples_shown": 4, "max_new_tokens": 6},
}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio whose worker runs two runs at once."""
    folder = tmp_path_factory.mktemp("sweeps")
    tiny.write_models(folder)
    with running_studio(folder / "var", model_roots=[folder], STUDIO_WORKER_SLOTS="2") as running:
        yield running


@pytest.fixture(scope="module")
def recipe(studio: Studio) -> dict[str, Any]:
    folder = studio.data_dir.parent
    reward = {"source": "model", "model": studio.model(folder / "tiny-reward", "reward"), "accept_inverted": True}
    return {
        "dataset": studio.dataset(tiny.write_pairs(folder / "pairs.jsonl")),
        "policy": {"model": studio.model(folder / "tiny-policy", "policy")},
        "reward": reward,
        "weights": {"preset": "paper", "lambda": 0.3},
        **SMALL,
    }


def launch(studio: Studio, body: dict[str, Any]) -> str:
    return str(studio.post("/api/v1/sweeps", body, status=202)["id"])


def sweep(studio: Studio, sweep_id: str) -> dict[str, Any]:
    found: dict[str, Any] = studio.get(f"/api/v1/sweeps/{sweep_id}")
    return found


def ended(studio: Studio, sweep_id: str) -> dict[str, Any]:
    """The sweep once none of its runs goes on."""

    def look() -> dict[str, Any] | None:
        found = sweep(studio, sweep_id)
        return None if found["state"] in ("queued", "running") else found

    found: dict[str, Any] = wait_until(look, what="the end of the sweep")
    return found


def events_of(studio: Studio, variant: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [event["payload"] for event in studio.events(variant["run_id"]) if event["kind"] == kind]


def why(studio: Studio, found: dict[str, Any]) -> str:
    return "\n".join(studio.http.get(f"/api/v1/runs/{one['run_id']}/log").text for one in found["variants"] if one["run_id"])


def test_a_sweep_scores_once_and_is_whole_after_a_stop_in_the_middle(studio: Studio, recipe: dict[str, Any]) -> None:
    sweep_id = launch(studio, {"recipe": recipe, "lambda": [0.1, 0.3, 1.0], "baselines": ["dpo"], "name": "Heat"})
    wait_until(lambda: sweep(studio, sweep_id)["counts"].get("running", 0) == 2, what="two runs at once")
    wait_until(lambda: sweep(studio, sweep_id)["counts"].get("succeeded", 0) >= 1, what="the first success")
    studio.post(f"/api/v1/sweeps/{sweep_id}/stop", status=202)
    stopped = ended(studio, sweep_id)
    assert stopped["state"] == "stopped", why(studio, stopped)
    done = {one["run_id"] for one in stopped["variants"] if one["state"] == "succeeded"}
    assert 1 <= len(done) <= 3
    studio.post(f"/api/v1/sweeps/{sweep_id}/resume", status=202)
    whole = ended(studio, sweep_id)
    assert whole["state"] == "succeeded", why(studio, whole)
    attempts = {one["run_id"]: studio.get(f"/api/v1/runs/{one['run_id']}")["attempt"] for one in whole["variants"]}
    assert {attempts[run_id] for run_id in done} == {1}  # what had succeeded wasn't run again
    check_scored_once(studio, whole)
    check_prompts(studio, whole)
    check_table(whole)


def check_scored_once(studio: Studio, whole: dict[str, Any]) -> None:
    """Of all attempts of all runs one computed log π_ref and one the rewards; the others found every pair.

    Two runs begin at once: one may ask for the rewards first while the other, held up there, is first with log π_ref.
    """
    makers = set()
    for part in ("logprob", "reward"):
        told = [
            (one["run_id"], event["scoring"][part]) for one in whole["variants"] for event in events_of(studio, one, "scoring")
        ]
        kept = [scores for _, scores in told if scores is not None]
        makers |= {run_id for run_id, scores in told if scores is not None and not scores["hit"]}
        assert len(kept) >= 3
        assert [one["hit"] for one in kept].count(False) == 1, kept
        assert len({one["key"] for one in kept}) == 1
    assert {one["run_id"] for one in whole["variants"] if not one["scores_from_cache"]} == makers


def check_prompts(studio: Studio, whole: dict[str, Any]) -> None:
    """All variants answered the same held-out prompts, and their references answered them alike: same seeds."""
    samples = [
        sorted({(one["step"], one["example_id"], one["reference"]) for one in events_of(studio, variant, "sample")})
        for variant in whole["variants"]
    ]
    assert len(samples[0]) >= 4
    assert all(one == samples[0] for one in samples)


def check_table(whole: dict[str, Any]) -> None:
    keys = {"eval/kl", "eval/reward_gain", "eval/win_rate", "eval/loss", "eval/length_policy", "tokens_per_second"}
    for one in whole["variants"]:
        assert keys <= {key for key, value in one["metrics"].items() if value is not None}, one["label"]
        assert one["seconds"] > 0
        points = [point for point in whole["frontier"] if point["variant"] == one["variant"]]
        assert [point["step"] for point in points] == [0, 4, 8, 12], one["label"]
    weighted = whole["variants"][:3]
    assert all(0 < one["metrics"]["weight/ess_share"] <= 1 for one in weighted)
    assert weighted[0]["metrics"]["weight/ess_share"] < weighted[2]["metrics"]["weight/ess_share"]  # λ 0.1 is the pickier
    assert sum(one["best"] for one in whole["variants"]) == 1
    assert any(point["on_front"] for point in whole["frontier"])


def test_label_noise_is_swept_over_the_same_clean_scores(studio: Studio, recipe: dict[str, Any]) -> None:
    """Rewards from the labels: with more of them swapped, more of the weight lies on what was rejected."""
    plain = {**recipe, "reward": {"source": "preference", "judge": recipe["reward"]["model"]}}
    plain["weights"] = {"preset": "within_prompt", "lambda": 0.5}
    sweep_id = launch(studio, {"recipe": plain, "fields": {"noise.label_flip_share": [0, 0.1, 0.4]}})
    whole = ended(studio, sweep_id)
    assert whole["state"] == "succeeded", why(studio, whole)
    kept = [event["scoring"]["logprob"] for one in whole["variants"] for event in events_of(studio, one, "scoring")]
    assert [one["hit"] for one in kept].count(False) <= 1
    assert len({one["key"] for one in kept}) == 1
    num_swapped = [count_swapped(studio, whole["variants"][0], one) for one in whole["variants"]]
    assert num_swapped[0] == 0
    assert num_swapped == sorted(num_swapped)  # the same seed: what is swapped at 10 % is swapped at 40 % too
    assert num_swapped[1] < num_swapped[2] > 0


def count_swapped(studio: Studio, clean: dict[str, Any], noisy: dict[str, Any]) -> int:
    """The responses of the first batches whose reward isn't that of the run without noise."""
    rewards = []
    for variant in (clean, noisy):
        rows = [
            row for step in range(1, 9) for row in studio.get(f"/api/v1/runs/{variant['run_id']}/weights?step={step}")["items"]
        ]
        rewards.append({(row["example_id"], row["response"]): row["reward"] for row in rows})
    assert rewards[0].keys() == rewards[1].keys()
    return sum(rewards[0][key] != rewards[1][key] for key in rewards[0])
