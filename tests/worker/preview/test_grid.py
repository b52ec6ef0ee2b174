"""Previews of kept scores: the numbers of the very runs they stand for, and a sentence where they can't say."""

import math
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from typing import Any

import pytest
import torch

from app.domain.errors import InvalidInput, NotFound
from app.domain.metrics import CATALOGUE
from app.domain.preview.weights import PreviewJob, PreviewResult
from app.domain.recipe import NoiseSettings, WeightSettings
from app.domain.training.rewards import RewardSettings
from tests.worker.kept_scoring import (
    CROSS,
    EARLY,
    OWN,
    draw_examples,
    draw_scores,
    keep_scoring,
    make_plan,
    own_prompts,
    write_dataset,
)
from worker.preview.grid import preview
from worker.preview.scores import KeptScorings
from worker.stages.examples import Encoded
from worker.stages.noise import add_noise
from worker.stages.training.weights import weigh
from worker.stages.treatment import choose_treatment, count_tokens
from worker.var.certificate import droppable, logprob_floors

PRESETS = ["paper", "length_normalised", "within_prompt", "reward_weighted"]
near = pytest.approx


def ask(job: PreviewJob, **request: Any) -> PreviewResult:
    if "lambda_" in request:
        request["lambda"] = request.pop("lambda_")
    return preview(job.model_copy(update={"request": request}))


def run_of(batches, logprobs, rewards, preset: str, lambda_: float, **choices: Any):
    """What a run with these batches says of its weights: means over the batches, and the histogram."""
    settings = WeightSettings.model_validate({"preset": preset, "lambda": lambda_, **choices})
    weighing = weigh(batches, logprobs, rewards, settings)
    steps = [weighing.describe(batch) for batch in weighing.batches]
    means = {key: fmean(step[key] for step in steps if key in step) for step in steps for key in step}
    return means, [sum(column) for column in zip(*(weighing.histogram(batch) for batch in weighing.batches), strict=True)]


@pytest.fixture(scope="module", params=[(2,), (1, 2, 4, 1, 3)], ids=["pairs", "ragged"])
def plan(request):
    """45 examples in batches of 7 and 8, with the scores of every pair."""
    batches = make_plan(draw_examples(45, counts=request.param), 8)
    return (batches, *draw_scores(batches))


def split(batches, logprobs, rewards, batch_size: int):
    """Every scored batch in consecutive groups of prompts, sizes as even as can be."""
    parts: tuple[list, list, list] = ([], [], [])
    for batch, logprob_BM, reward_BM in zip(batches, logprobs, rewards, strict=True):
        num = math.ceil(len(batch) / batch_size)
        edges = [round(k * len(batch) / num) for k in range(num + 1)]
        own_M = own_prompts(batch)
        for start, end in pairwise(edges):
            inside_M = (own_M >= start) & (own_M < end)
            parts[0].append(batch[start:end])
            parts[1].append(logprob_BM[start:end, inside_M])
            parts[2].append(reward_BM[start:end, inside_M])
    return parts


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("batch_size", [8, 4, 3, 1])
def test_a_cell_is_what_the_runs_batches_would_show(tmp_path, plan, preset, batch_size):
    job = keep_scoring(tmp_path, *plan)
    result = ask(job, presets=[preset], lambda_=[0.1, 1.0], batch_sizes=[batch_size])
    assert [(cell.lambda_, cell.batch_size) for cell in result.cells] == [(0.1, batch_size), (1.0, batch_size)]
    for cell in result.cells:
        metrics, bins = run_of(*split(*plan, batch_size), preset, cell.lambda_)
        assert cell.metrics == near(metrics, rel=1e-5, abs=1e-6)
        assert sum(cell.histogram) == sum(bins)
        assert sum(abs(a - b) for a, b in zip(cell.histogram, bins, strict=True)) <= 4  # weights at an edge
        assert set(cell.metrics) <= set(CATALOGUE)
    assert (result.num_batches, result.num_responses) == (len(plan[0]), sum(len(e.responses) for b in plan[0] for e in b))


@pytest.mark.parametrize("preset", ["within_prompt", "reward_weighted"])
@pytest.mark.parametrize("batch_size", [9, 16, 45, 1000])
def test_larger_batches_are_those_of_a_plan_with_the_same_seed(tmp_path, preset, batch_size):
    examples = draw_examples(45, counts=(2, 1, 3))
    batches = make_plan(examples, 8)
    job = keep_scoring(tmp_path, batches, *draw_scores(batches), extents=(OWN, OWN))
    (cell,) = ask(job, presets=[preset], lambda_=[0.3], batch_sizes=[batch_size]).cells
    own = {}
    for batch, logprob_BM, reward_BM in zip(batches, *draw_scores(batches), strict=True):
        for j, (i, response) in enumerate((i, r) for i, example in enumerate(batch) for r in example.responses):
            own[batch[i].example_id, response.number] = float(logprob_BM[i, j]), float(reward_BM[i, j])
    larger = make_plan(examples, batch_size)
    scores: list[list[torch.Tensor]] = [[], []]
    for batch in larger:
        pairs = [own[e.example_id, r.number] for e in batch for r in e.responses]
        for kind in (0, 1):
            scores[kind].append(torch.tensor([[pair[kind] for pair in pairs]] * len(batch)))
    metrics, _ = run_of(larger, *scores, preset, 0.3)
    assert cell.metrics == near(metrics, rel=1e-5, abs=1e-6)


def test_overrides_replace_single_choices_of_a_preset(tmp_path, plan):
    job = keep_scoring(tmp_path, *plan)
    choices = {"reward_norm": "zscore", "mean_one": False, "responses": "chosen", "logprob_norm": "sum"}
    (cell,) = ask(job, presets=["length_normalised"], lambda_=[0.7], overrides=choices).cells
    metrics, bins = run_of(*plan, "length_normalised", 0.7, **choices)
    assert cell.metrics == near(metrics, rel=1e-5, abs=1e-6)
    assert sum(cell.histogram) == sum(bins) < sum(len(e.responses) for b in plan[0] for e in b)
    assert all(shown.preference == 1 for shown in (*cell.heaviest, *cell.lightest))
    with pytest.raises(InvalidInput, match="no setting called shape"):
        ask(job, overrides={"shape": "round"})


# One scale for the data set, and what is chance of who meets whom


@pytest.mark.parametrize("preset", PRESETS)
def test_one_scale_for_the_data_set_is_that_of_the_run(tmp_path, plan, preset):
    job = keep_scoring(tmp_path, *plan)
    cells = ask(job, presets=[preset], lambda_=[0.3, 1.0], overrides={"mean_one": "dataset"}).cells
    for cell in cells:
        metrics, bins = run_of(*plan, preset, cell.lambda_, mean_one="dataset")
        assert cell.metrics == near(metrics, rel=1e-5, abs=1e-6)
        assert sum(cell.histogram) == sum(bins)


def test_how_evenly_the_prompts_count_is_told_of_the_whole_data_set(tmp_path):
    batches = make_plan(draw_examples(6), 3)
    logprobs, rewards = draw_scores(batches)
    one, other = ([torch.full_like(r, 0.0) for r in rewards] for _ in range(2))
    other[0][0, :2] = 100.0  # the first prompt's two responses take everything
    shares = [
        ask(keep_scoring(tmp_path / name, batches, logprobs, made, extents=(CROSS, OWN)), presets=["reward_weighted"],
            lambda_=[1.0], overrides={"mean_one": "dataset"}).cells[0].prompt_ess_share
        for name, made in (("even", one), ("odd", other))
    ]  # fmt: skip
    assert shares == near([1.0, 1 / 6])


def test_what_is_chance_of_who_meets_whom_is_told_where_no_other_scores_are_needed(tmp_path, plan):
    job = keep_scoring(tmp_path, *plan)
    shares = {
        (preset, scale): ask(job, presets=[preset], lambda_=[1.0], overrides={"mean_one": scale}).cells[0].partner_share
        for preset in ("reward_weighted", "within_prompt", "length_normalised")
        for scale in ("batch", "dataset")
    }
    assert 0.02 < shares["reward_weighted", "batch"] < 0.6
    assert shares["reward_weighted", "dataset"] == shares["within_prompt", "dataset"] == 0.0
    assert shares["within_prompt", "batch"] < 1e-9  # a prompt's weights have mean 1 in any company
    assert shares["length_normalised", "batch"] is None
    (cell,) = ask(job, presets=["reward_weighted"], lambda_=[1.0], overrides={"plans": "8"}).cells
    assert (cell.plans, cell.partner_share) == (8, shares["reward_weighted", "batch"])
    assert 0 < cell.partner_share_left < cell.partner_share / 6


# Rewards from the data, and noise


@pytest.mark.parametrize("source", ["preference", "rating"])
@pytest.mark.parametrize("preset", PRESETS)
def test_rewards_may_stand_in_the_data(tmp_path, source, preset):
    batches = make_plan(draw_examples(30, counts=(2, 3)), 8)
    logprobs, _ = draw_scores(batches)
    job = keep_scoring(tmp_path, batches, logprobs, None, source=source)
    (cell,) = ask(job, presets=[preset], lambda_=[0.5]).cells
    values = [[float(r.rating if source == "rating" else r.preference) for e in b for r in e.responses] for b in batches]
    rewards = [torch.tensor([row] * len(batch)) for row, batch in zip(values, batches, strict=True)]
    metrics, _ = run_of(batches, logprobs, rewards, preset, 0.5, cross_reward="reuse")
    assert cell.metrics == near(metrics, rel=1e-5, abs=1e-6)
    with pytest.raises(InvalidInput, match=f"come from the {source}.* set cross_reward to reuse"):
        ask(job, overrides={"cross_reward": "score"})


@pytest.mark.parametrize("source", ["model", "preference"])
@pytest.mark.parametrize("preset", ["length_normalised", "within_prompt", "reward_weighted"])
def test_noise_is_that_of_a_run(tmp_path, plan, source, preset):
    batches, logprobs, rewards = plan
    if source == "preference":
        labels = [torch.tensor([float(r.preference) for e in batch for r in e.responses]) for batch in batches]
        rewards = [label_M.expand(len(batch), -1) for label_M, batch in zip(labels, batches, strict=True)]
    job = keep_scoring(tmp_path, batches, logprobs, rewards if source == "model" else None, source=source)
    noise = NoiseSettings(label_flip_share=0.3, reward_std=0.4, seed=11)
    (cell,) = ask(job, presets=[preset], lambda_=[0.5], label_flip_share=0.3, reward_std=0.4, noise_seed=11).cells
    noisy, perturbed = add_noise(batches, rewards, noise, source)
    metrics, _ = run_of(noisy, logprobs, perturbed, preset, 0.5, **({} if source == "model" else {"cross_reward": "reuse"}))
    assert cell.metrics == near(metrics, rel=1e-5, abs=1e-6)
    (clean,) = ask(job, presets=[preset], lambda_=[0.5]).cells
    assert clean.metrics["weight/share_chosen"] != near(cell.metrics["weight/share_chosen"], abs=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("asked", [{"length_control": True}, {"per_prompt": True}, {"length_control": True, "per_prompt": True}])
def test_rewards_are_treated_as_by_a_run(tmp_path, plan, preset, asked):
    batches, logprobs, rewards = plan
    rewards = [reward_BM + 0.5 * count_tokens(batch) for reward_BM, batch in zip(rewards, batches, strict=True)]
    choices = {"cross_reward": "reuse"} if "per_prompt" in asked else {}
    settings = RewardSettings(source="model", model="r", **asked)
    treatment = choose_treatment(batches, rewards, settings)
    treated = [treatment.matrix(*parts) for parts in zip(rewards, batches, strict=True)]
    metrics, _ = run_of(batches, logprobs, treated, preset, 0.5, **choices)
    job = keep_scoring(tmp_path, batches, logprobs, rewards)
    (cell,) = ask(job, presets=[preset], lambda_=[0.5], overrides=choices, **asked).cells
    assert cell.metrics == near(metrics, rel=1e-4, abs=1e-5)
    plain, _ = run_of(batches, logprobs, rewards, preset, 0.5, **choices)
    assert cell.metrics["weight/ess_share"] != near(plain["weight/ess_share"], rel=1e-3)


def test_rewards_within_prompts_are_not_asked_across_them(tmp_path, plan):
    with pytest.raises(InvalidInput, match="set cross_reward to reuse"):
        ask(keep_scoring(tmp_path, *plan), presets=["length_normalised"], lambda_=[0.5], per_prompt=True)


def test_the_reward_check_tells_what_length_explains(tmp_path, plan):
    batches, logprobs, rewards = plan
    longer = [reward_BM + 0.5 * count_tokens(batch) for reward_BM, batch in zip(rewards, batches, strict=True)]
    checks = [
        ask(keep_scoring(tmp_path, batches, logprobs, longer), lambda_=[0.5], length_control=on).check for on in (False, True)
    ]
    assert checks[0].length_slope == near(0.5, abs=0.2)
    assert checks[0].length_explains > 0.3 > 1e-6 > checks[1].length_explains
    assert checks[1].accuracy == near(checks[0].controlled_accuracy)


def test_flipped_labels_lower_the_accuracy_of_the_reward_check(tmp_path):
    batches = make_plan(draw_examples(400), 8)
    job = keep_scoring(tmp_path, batches, *draw_scores(batches))
    clean, noisy = ask(job).check, ask(job, label_flip_share=0.5).check
    assert clean.accuracy > 0.7 > 0.6 > noisy.accuracy
    assert clean.num_pairs == noisy.num_pairs == 400


# What kept scores can't say


def test_own_scores_alone_serve_no_cross_terms(tmp_path, plan):
    own = keep_scoring(tmp_path, *plan, extents=(OWN, OWN))
    for preset in ("paper", "length_normalised"):
        with pytest.raises(InvalidInput, match=f"preset {preset} needs log-probabilities of other prompts' responses"):
            ask(own, presets=[preset])
    assert len(ask(own, presets=["within_prompt", "reward_weighted"]).cells) == 10
    rewards = keep_scoring(tmp_path, *plan, extents=(CROSS, OWN))
    with pytest.raises(InvalidInput, match="preset paper needs rewards of other prompts' responses"):
        ask(rewards, presets=["paper"])
    (cell,) = ask(rewards, presets=["paper"], lambda_=[0.4], overrides={"cross_reward": "reuse"}).cells
    metrics, _ = run_of(*plan, "paper", 0.4, cross_reward="reuse")
    assert cell.metrics == near(metrics, rel=1e-5, abs=1e-6)


def test_nothing_was_scored_between_batches_so_larger_ones_need_choices_without_cross_terms(tmp_path, plan):
    job = keep_scoring(tmp_path, *plan)
    with pytest.raises(InvalidInput, match=r"Batches of 16 prompts can't be previewed with the preset paper: .* 8 prompts"):
        ask(job, presets=["within_prompt", "paper"], batch_sizes=[4, 16])


def test_scores_that_were_stopped_early_serve_the_paper_at_larger_lambdas(tmp_path, plan):
    batches, logprobs, rewards = plan
    raws, asked = [], []
    for batch, logprob_BM, reward_BM in zip(batches, logprobs, rewards, strict=True):
        own_M, every_M = own_prompts(batch), torch.arange(logprob_BM.shape[1])
        own = logprob_BM[own_M, every_M], reward_BM[own_M, every_M]
        dropped_BM = droppable(logprob_BM, logprob_floors(own_M, *own, 0.5, max(float(r.max()) for r in rewards)))
        raws.append(torch.where(dropped_BM, -logprob_BM, logprob_BM))
        asked.append(reward_BM.masked_fill(dropped_BM, math.nan))
    assert sum(int((raw > 0).sum()) for raw in raws) > 100
    early = keep_scoring(tmp_path, batches, raws, asked, extents=(EARLY, EARLY), smallest_lambda=0.5)
    whole = keep_scoring(tmp_path, batches, logprobs, rewards)
    request = {"presets": ["paper", "within_prompt"], "lambda_": [0.5, 3.0], "batch_sizes": [8, 4], "target_ess": 0.3}
    stopped, full = ask(early, **request), ask(whole, **request)
    for some, every in zip(stopped.cells, full.cells, strict=True):
        expected = {**every.metrics, "weight/largest_exponent": some.metrics["weight/largest_exponent"]}
        assert some.metrics == near(expected, abs=1e-6)
        assert some.histogram == every.histogram
    assert all(s.lambda_ is None or s.lambda_ >= 0.5 for s in stopped.suggestions if s.preset == "paper")
    with pytest.raises(InvalidInput, match=r"serve λ from 0\.5 on, not 0\.1"):
        ask(early, presets=["paper"], lambda_=[0.1, 1.0])
    with pytest.raises(InvalidInput, match=r"serves summed ones .* not length_normalised"):
        ask(early, presets=["length_normalised"], lambda_=[1.0])
    with pytest.raises(InvalidInput, match="noise on them can't be previewed"):
        ask(early, presets=["paper"], lambda_=[1.0], reward_std=0.1)
    z_scored = {"presets": ["paper"], "overrides": {"reward_norm": "zscore"}}
    std = torch.cat([r[own_prompts(b), torch.arange(r.shape[1])] for b, r in zip(batches, rewards, strict=True)]).std(
        correction=0
    )
    assert ask(early, **z_scored, lambda_=[float(0.5001 / std)]).cells
    with pytest.raises(InvalidInput, match="serve λ from"):
        ask(early, **z_scored, lambda_=[float(0.49 / std)])


def test_scores_stopped_early_for_reused_rewards_do_not_serve_asked_ones_above_them(tmp_path, plan):
    batches, logprobs, rewards = plan
    raws = []
    for batch, logprob_BM, reward_BM in zip(batches, logprobs, rewards, strict=True):
        own_M, every_M = own_prompts(batch), torch.arange(logprob_BM.shape[1])
        own_reward_M = reward_BM[own_M, every_M]
        floor_BM = logprob_floors(own_M, logprob_BM[own_M, every_M], own_reward_M, 0.5, own_reward_M)
        raws.append(torch.where(droppable(logprob_BM, floor_BM), -logprob_BM, logprob_BM))
    higher = [torch.where(raw_BM > 0, reward_BM + 60.0, reward_BM) for raw_BM, reward_BM in zip(raws, rewards, strict=True)]
    request = {"presets": ["paper"], "lambda_": [0.5]}
    for values, folder in ((rewards, "lower"), (higher, "higher")):
        job = keep_scoring(tmp_path / folder, batches, raws, values, extents=(EARLY, CROSS), smallest_lambda=0.5)
        assert ask(job, **request, overrides={"cross_reward": "reuse"}).cells
        if folder == "lower":
            metrics, _ = run_of(*plan, "paper", 0.5)
            found = ask(job, **request).cells[0].metrics
            assert {k: v for k, v in found.items() if "exponent" not in k} == near(
                {k: v for k, v in metrics.items() if "exponent" not in k}, abs=1e-5
            )
        else:
            with pytest.raises(InvalidInput, match="for rewards that are reused"):
                ask(job, **request)


def test_what_can_not_be_computed_is_refused_with_its_field(tmp_path, plan):
    job = keep_scoring(tmp_path, *plan)
    for request, field in (
        ({"lambda": [0.0]}, "lambda.0"),
        ({"presets": []}, "presets"),
        ({"lambda": [1e-40]}, "lambda"),
        ({"lambda": [k / 10 for k in range(1, 41)], "presets": PRESETS, "batch_sizes": [2, 4, 8]}, "lambda"),
    ):
        with pytest.raises(InvalidInput) as refused:
            preview(job.model_copy(update={"request": request}))
        assert refused.value.problems[0]["field"] == field
    unlabelled = make_plan(draw_examples(20, labelled=False), 4)
    job = keep_scoring(tmp_path / "unlabelled", unlabelled, *draw_scores(unlabelled))
    with pytest.raises(InvalidInput, match="no response of the data set is marked as chosen: use both"):
        ask(job, overrides={"responses": "chosen"})
    assert ask(job).check.num_pairs == 0


def test_a_scoring_that_is_gone_is_told(tmp_path, plan):
    job = keep_scoring(tmp_path, *plan)
    with pytest.raises(NotFound, match=r"gone or damaged\. Make the scoring again"):
        ask(job.model_copy(update={"logprob_key": "logprob-none"}))


# λ, findings and responses


@pytest.mark.parametrize("preset", PRESETS)
def test_the_suggested_lambda_gives_the_wanted_effective_share(tmp_path, preset):
    batches = make_plan(draw_examples(240), 8)
    job = keep_scoring(tmp_path, batches, *draw_scores(batches))
    (suggestion,) = ask(job, presets=[preset], target_ess=0.6, overrides={"logprob_norm": "mean"}).suggestions
    assert suggestion.lambda_ is not None
    (cell,) = ask(job, presets=[preset], lambda_=[suggestion.lambda_], overrides={"logprob_norm": "mean"}).cells
    assert cell.metrics["weight/ess_share"] == near(0.6, abs=0.002)


def test_a_share_out_of_reach_is_told_with_what_can_be_had(tmp_path):
    batches = make_plan(draw_examples(40), 8)
    logprobs, rewards = draw_scores(batches)
    job = keep_scoring(tmp_path, batches, logprobs, [torch.zeros_like(reward_BM) for reward_BM in rewards])
    result = ask(job, presets=["reward_weighted"])
    assert result.suggestions[0].lambda_ is None
    assert "lies between 1 and 1" in result.suggestions[0].reason
    assert "flat_rewards" in [found.name for found in result.findings]
    assert "plain_sft" in [found.name for found in result.cells[0].findings]


def names(findings) -> set[str]:
    return {found.name for found in findings}


def test_signatures_are_found_where_they_are(tmp_path):
    batches = make_plan(draw_examples(160), 8)
    logprobs, rewards = draw_scores(batches)
    job = keep_scoring(tmp_path, batches, logprobs, [-reward_BM for reward_BM in rewards])
    assert names(ask(job).findings) == {"inverted_rewards"}
    job = keep_scoring(tmp_path, batches, logprobs, rewards)
    result = ask(job, presets=["paper", "reward_weighted"], lambda_=[0.003, 100.0])
    assert result.findings == []
    tiny, large, alone_tiny, alone_large = (names(cell.findings) for cell in result.cells)
    assert {"overflow_risk"} <= tiny
    assert {"plain_sft", "length_driven"} & large
    assert {"weight_collapse", "overflow_risk"} <= alone_tiny
    assert alone_large == set() or alone_large == {"plain_sft"}


def repeat(example: Encoded, **changes: Any) -> Encoded:
    return replace(example, **changes)


def test_copies_and_pairs_without_a_difference_are_found(tmp_path):
    examples = draw_examples(32)
    same = [
        repeat(e, responses=tuple(replace(r, ids=e.responses[0].ids, content=e.responses[0].content) for r in e.responses))
        for e in examples
    ]
    batches = make_plan(same, 8)
    result = ask(keep_scoring(tmp_path, batches, *draw_scores(batches)), batch_sizes=[8])
    assert "32 of 32 pairs" in next(found.evidence for found in result.findings if found.name == "truncated_pairs")
    assert all("low_diversity" in names(cell.findings) for cell in result.cells)
    cut = [
        repeat(e, responses=tuple(replace(r, ids=e.responses[0].ids) for r in e.responses)) if e.example_id < 5 else e
        for e in examples
    ]
    batches = make_plan(cut, 8)
    result = ask(keep_scoring(tmp_path / "cut", batches, *draw_scores(batches)))
    assert "5 of 32 pairs" in next(found.evidence for found in result.findings if found.name == "truncated_pairs")
    assert not any("low_diversity" in names(cell.findings) for cell in result.cells)


def test_the_heaviest_and_lightest_responses_are_shown_with_their_texts(tmp_path):
    examples = draw_examples(60, words=100)
    batches = make_plan(examples, 8)
    logprobs, rewards = draw_scores(batches)
    dataset = write_dataset(tmp_path / "examples.parquet", examples, group_rows=7)
    job = keep_scoring(tmp_path, batches, logprobs, rewards, dataset=dataset)
    (cell,) = ask(job, presets=["reward_weighted"], lambda_=[0.5]).cells
    weighing = weigh(batches, logprobs, rewards, WeightSettings.model_validate({"preset": "reward_weighted", "lambda": 0.5}))
    every = sorted(
        (float(w), e.example_id, r.number)
        for batch in weighing.batches
        for w, (e, r) in zip(batch.weight_M, [(e, r) for e in batch.examples for r in e.responses], strict=True)
    )
    assert [(r.example_id, r.response) for r in cell.lightest] == [(i, k) for _, i, k in every[:10]]
    assert [(r.example_id, r.response) for r in cell.heaviest] == [(i, k) for _, i, k in every[:-11:-1]]
    for shown in (*cell.lightest, *cell.heaviest):
        assert shown.prompt.startswith(f"question {shown.example_id} word")
        assert shown.content.startswith(f"answer {shown.response} to {shown.example_id} word")
        assert len(shown.content) <= 240
        assert shown.content.endswith("…")
        assert shown.num_tokens == len(examples[shown.example_id].responses[shown.response].ids)
    gone = job.model_copy(update={"dataset_path": str(tmp_path / "none.parquet")})
    assert ask(gone, presets=["reward_weighted"], lambda_=[0.5]).cells[0].heaviest[0].content == ""


# Scorings that stay in memory


def test_the_last_few_scorings_stay_in_memory(tmp_path, plan):
    jobs = [keep_scoring(tmp_path / str(k), *plan) for k in range(3)]
    kept = KeptScorings(most=2)
    first = kept.load(jobs[0])
    assert kept.load(jobs[0]) is first
    kept.load(jobs[1])
    assert kept.load(jobs[0]) is first
    kept.load(jobs[2])
    assert len(kept) == 2
    assert kept.load(jobs[0]) is first
    small = KeptScorings(most_bytes=first.num_bytes + 1)
    small.load(jobs[0])
    small.load(jobs[1])
    assert len(small) == 1
