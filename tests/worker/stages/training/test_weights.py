import math

import pyarrow.parquet as pq
import pytest
import torch

from app.domain import findings
from app.domain.errors import RecipeInvalid
from tests.worker.workshop import make_recipe
from worker.stages.batches import plan_batches
from worker.stages.examples import Prepared
from worker.stages.scoring.pairs import mark_pairs, own_prompts, read_rewards, score_pairs
from worker.stages.scoring.plans import BatchPlan, rearrange
from worker.stages.training.findings import data_findings, target_findings
from worker.stages.training.weights import gather_own, save_weights, search_lambda, weigh
from worker.var import lambdas
from worker.var.certificate import droppable, logprob_floors
from worker.var.weights import Candidates, TargetUnreachable, WeightChoices, effective_sample_size


@pytest.fixture(scope="module")
def scored(batches, policy):
    logprobs = [score_pairs(policy.language_model, batch, mark_pairs(batch, cross=True)) for batch in batches]
    return batches, logprobs, [read_rewards(make_recipe(), batch) for batch in batches]


def settings(**weights):
    return make_recipe(weights={"lambda": 0.5, **weights}).weights


def test_within_a_prompt_the_weights_are_the_sigmoid_of_the_reward_gap(scored):
    weighing = weigh(*scored, settings(preset="within_prompt", mean_one=False))
    for batch in weighing.batches:
        share = batch.weight_M / torch.stack([batch.weight_M[::2] + batch.weight_M[1::2]] * 2, dim=1).flatten()
        want = 1 / (1 + math.exp(-2 / 0.5))
        assert share.tolist() == pytest.approx([want, 1 - want] * len(batch.examples), rel=1e-5)


def test_weights_of_mean_one_leave_the_learning_rate_alone(scored):
    for batch in weigh(*scored, settings()).batches:
        assert float(batch.weight_M.mean()) == pytest.approx(1.0, rel=1e-5)


def flatten(weighing):
    """Every response's weight, by example and number."""
    return {
        (example.example_id, response.number): weight
        for batch in weighing.batches
        for (example, response), weight in zip(
            [(example, r) for example in batch.examples for r in example.responses], batch.weight_M.tolist(), strict=True
        )
    }


@pytest.fixture(scope="module")
def rated(scored):
    """The same with a reward of its own for every response."""
    chance = torch.Generator().manual_seed(0)
    return (*scored[:2], [reward_BM + torch.randn(reward_BM.shape[1], generator=chance) for reward_BM in scored[2]])


def regroup(scored, size):
    """The same examples in batches of another size; each response keeps its scores with its own prompt alone."""
    batches, logprobs, rewards = scored
    examples = [example for batch in batches for example in batch]
    own = [
        [gather_own(own_prompts(batch), matrix_BM) for batch, matrix_BM in zip(batches, matrices, strict=True)]
        for matrices in (logprobs, rewards)
    ]
    flat = [iter(torch.cat(parts).tolist()) for parts in own]
    made = [examples[start : start + size] for start in range(0, len(examples), size)]

    def matrix(batch, values):
        own_M = own_prompts(batch)
        own_BM = torch.full((len(batch), len(own_M)), math.nan)
        own_BM[own_M, torch.arange(len(own_M))] = torch.tensor([next(values) for _ in own_M])
        return own_BM

    return made, *([matrix(batch, values) for batch in made] for values in flat)


@pytest.mark.parametrize("preset", ["reward_weighted", "paper"])
def test_one_scale_for_the_data_set_makes_its_mean_weight_one_and_leaves_the_batches_their_own(scored, preset):
    plain, scaled = (weigh(*scored, settings(preset=preset, cross_reward="reuse", mean_one=one)) for one in ("off", "dataset"))
    before, after = flatten(plain), flatten(scaled)
    assert sum(after.values()) / len(after) == pytest.approx(1.0, rel=1e-5)
    ratios = [after[key] / before[key] for key in before if before[key] > 1e-20]
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-4)


def test_one_scale_for_the_data_set_knows_nothing_of_the_batch_size_where_the_weights_do_not(rated):
    """The form `reward`: by batch the same response's weight changes with B and its partners, by data set it does not."""
    weights = {
        (scale, size): flatten(weigh(*regroup(rated, size), settings(preset="reward_weighted", mean_one=scale)))
        for scale in ("batch", "dataset")
        for size in (1, 2, 5)
    }
    for size in (2, 5):
        assert weights["dataset", size] == pytest.approx(weights["dataset", 1], rel=1e-6)
    assert weights["batch", 5] != pytest.approx(weights["batch", 1], rel=1e-2)


def other_plans(rated, num):
    """The same examples in other company."""
    examples = [example for batch in rated[0] for example in batch]
    return [[[examples[i] for i in part] for part in plan_batches(len(examples), 5, seed)] for seed in range(1, num + 1)]


def test_weights_over_several_plans_are_the_means_of_each_plans(rated):
    asked, known = settings(preset="reward_weighted"), BatchPlan(*rated)
    plans = [rearrange(known, batches) for batches in other_plans(rated, 3)]
    together = flatten(weigh(*rated, asked, plans))
    each = [flatten(weigh(*rated, asked)), *(flatten(weigh(p.batches, p.logprobs, p.rewards, asked)) for p in plans)]
    assert together == pytest.approx({key: sum(one[key] for one in each) / 4 for key in together}, rel=1e-5)
    assert len({round(one[next(iter(together))], 6) for one in each}) > 1  # partners do count


def test_the_mean_over_plans_leaves_less_to_chance_and_says_how_much_there_was(rated):
    asked, known = settings(preset="reward_weighted", **{"lambda": 1.0}), BatchPlan(*rated)
    plans = [rearrange(known, batches) for batches in other_plans(rated, 9)]
    exact = flatten(weigh(*rated, settings(preset="reward_weighted", mean_one="dataset", **{"lambda": 1.0})))

    def error(weighing):
        return sum((weight - exact[key]) ** 2 for key, weight in flatten(weighing).items())

    averaged = weigh(*rated, asked, plans)
    assert error(averaged) < 0.8 * error(weigh(*rated, asked))  # what is left is the bias of rescaling by batch
    assert 0.0 < averaged.partner_share < 1.0
    assert weigh(*rated, asked).partner_share is None


def test_what_is_left_to_chance_is_told_of_the_weights_in_the_loss_alone(rated):
    asked, known = settings(preset="reward_weighted", responses="chosen", **{"lambda": 1.0}), BatchPlan(*rated)
    plans = [rearrange(known, batches) for batches in other_plans(rated, 4)]
    each = [weigh(*rated, asked), *(weigh(p.batches, p.logprobs, p.rewards, asked) for p in plans)]
    flat = list(map(flatten, each))
    chosen = [(e.example_id, r.number) for batch in rated[0] for e in batch for r in e.responses if r.preference == 1]
    weights = torch.tensor([[one[key] for one in flat] for key in chosen], dtype=torch.float64)
    share = float(weights.var(dim=1).mean() / weights.var(correction=0))
    assert weigh(*rated, asked, plans).partner_share == pytest.approx(share, rel=1e-5)


def test_over_several_plans_the_data_sets_mean_weight_stays_one(rated):
    plans = [rearrange(BatchPlan(*rated), batches) for batches in other_plans(rated, 2)]
    weights = flatten(weigh(*rated, settings(preset="within_prompt", mean_one="dataset"), plans))
    assert sum(weights.values()) / len(weights) == pytest.approx(1.0, rel=1e-6)


def draw_stopped(lambda_, num=40):
    """Batches whose pairs with other prompts are unlikely, in full, and without those that may be dropped at λ."""
    chance, full, stopped = torch.Generator().manual_seed(1), [], []
    own_M, row_B1 = torch.arange(4).repeat_interleave(2), torch.arange(4)[:, None]
    for _ in range(num):
        num_tokens_M = torch.randint(5, 20, (8,), generator=chance)
        logprob_BM = torch.randn(4, 8, generator=chance) - 1.2 * num_tokens_M - 40.0 * (own_M != row_B1)
        reward_BM = 3 * torch.randn(4, 8, generator=chance)
        own = (gather_own(own_M, logprob_BM), gather_own(own_M, reward_BM))
        is_dropped_BM = droppable(logprob_BM, logprob_floors(own_M, *own, lambda_, float(reward_BM.max())))
        full.append(Candidates(own_M, logprob_BM, num_tokens_M, reward_BM))
        known = (
            matrix_BM.masked_fill(is_dropped_BM, gone) for matrix_BM, gone in ((logprob_BM, -math.inf), (reward_BM, math.nan))
        )
        stopped.append(Candidates(own_M, next(known), num_tokens_M, next(known)))
    return full, stopped


def test_no_temperature_is_found_that_stopped_scores_do_not_serve():
    """Below the λ of the certificate dropped pairs count: what is found there without them is wrong."""
    full, stopped = draw_stopped(1.0)
    choices = WeightChoices("posterior", "batch", "sum", "score", "none", mean_one=False)
    right, wrong = (search_lambda(some, choices, 0.5, 0.0, 1.0, 1.0) for some in (full, stopped))
    assert wrong < 0.8 * right < 1.0
    with pytest.raises(TargetUnreachable):
        search_lambda(stopped, choices, 0.5, 0.0, 1.0, 1.0, served=1.0)


def test_chosen_only_trains_on_chosen_but_lets_the_rejected_compete(scored):
    both, chosen = weigh(*scored, settings(mean_one=False)), weigh(*scored, settings(mean_one=False, responses="chosen"))
    for a, b in zip(both.batches, chosen.batches, strict=True):
        assert torch.equal(b.enters_M, a.preference_M == 1)
        assert torch.equal(b.weight_M, a.weight_M * b.enters_M)


def test_chosen_only_without_any_chosen_names_the_field(scored):
    batches, logprobs, rewards = scored
    from dataclasses import replace

    unmarked = [[replace(e, responses=tuple(replace(r, preference=None) for r in e.responses)) for e in b] for b in batches]
    with pytest.raises(RecipeInvalid) as refused:
        weigh(unmarked, logprobs, rewards, settings(responses="chosen"))
    assert refused.value.problems[0]["field"] == "weights.responses"


def test_a_target_for_the_effective_sample_size_is_met(scored):
    weighing = weigh(*scored, settings(**{"lambda": None, "target_ess": 0.6}))
    shares = [effective_sample_size(batch.weight_M) / len(batch.weight_M) for batch in weighing.batches]
    assert sum(shares) / len(shares) == pytest.approx(0.6, abs=0.01)


def test_the_suggested_temperatures_balance_the_weights_and_fit_the_largest_reward(scored):
    known = weigh(*scored, settings(**{"lambda": 1e-3})).temperatures
    assert known.used == 1e-3
    balanced = weigh(*scored, settings(**{"lambda": known.balanced}))
    shares = [effective_sample_size(batch.weight_M) / len(batch.weight_M) for batch in balanced.batches]
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.01)
    assert float(balanced.own_rewards.abs().max()) / known.safe == pytest.approx(80)


def test_no_temperature_is_suggested_that_does_not_balance(scored):
    flat = [torch.zeros_like(reward_BM) for reward_BM in scored[2]]
    known = weigh(scored[0], [torch.zeros_like(one) for one in scored[1]], flat, settings()).temperatures
    assert (known.balanced, known.safe) == (None, None)


def test_an_unreachable_target_names_the_field(scored):
    with pytest.raises(RecipeInvalid) as refused:
        weigh(*scored, settings(preset="paper", cross_reward="reuse", **{"lambda": None, "target_ess": 0.999}))
    assert refused.value.problems[0]["field"] == "weights.target_ess"


@pytest.mark.parametrize(
    ("preset", "target", "why"),
    [("paper", 0.999, "can't be reached"), ("within_prompt", 0.5, "above 80")],
)
def test_where_no_temperature_gives_the_target_the_rewards_scale_does_when_the_recipe_says_so(scored, preset, target, why):
    asked = {"preset": preset, "lambda": None, "target_ess": target, "cross_reward": "reuse"}
    weighing = weigh(*scored, settings(**asked, fallback="reward_std"))
    assert weighing.choices.lambda_ == pytest.approx(weighing.reward_std)
    (finding,) = target_findings(weighing)
    assert (finding.name, why in finding.evidence) == ("target_unreached", True)
    assert f"λ is {weighing.reward_std:.3g}" in finding.evidence
    normalised = weigh(*scored, settings(**asked, fallback="reward_std", reward_norm="zscore"))
    assert normalised.choices.lambda_ == 1.0
    reached = weigh(*scored, settings(**{"lambda": None, "target_ess": 0.6}, fallback="reward_std"))
    assert (reached.unreached, reached.choices) == ("", weigh(*scored, settings(**{"lambda": None, "target_ess": 0.6})).choices)


def test_rewards_that_are_all_equal_have_no_deviation_that_a_temperature_could_be(scored):
    flat = [torch.zeros_like(reward_BM) for reward_BM in scored[2]]
    asked = {"preset": "within_prompt", "lambda": None, "target_ess": 0.5, "fallback": "reward_std"}
    (finding,) = target_findings(weigh(*scored[:2], flat, settings(**asked)))
    assert finding.evidence.endswith(" λ is 1, as all rewards are equal.")


def test_one_limit_says_which_exponents_are_too_large():
    assert lambdas.LARGEST_EXPONENT == findings.LARGEST_EXPONENT


def test_the_weights_file_lists_every_response_of_the_plan(scored, tmp_path):
    weighing = weigh(*scored, settings())
    save_weights(tmp_path / "weights.parquet", weighing)
    table = pq.read_table(tmp_path / "weights.parquet")
    assert [f"{field.name} {field.type}" for field in table.schema] == [
        "batch int32", "example_id int64", "response int16", "preference int8",
        "num_tokens int32", "logprob_ref float", "reward float", "weight float",
    ]  # fmt: skip
    rows = table.to_pylist()
    first = weighing.batches[0]
    own = [row for row in rows if row["batch"] == 0]
    assert [row["weight"] for row in own] == first.weight_M.tolist()
    assert [row["example_id"] for row in own] == [e.example_id for e in first.examples for _ in e.responses]
    logprobs = first.candidates.logprob_BM.gather(0, own_prompts(first.examples)[None])[0]
    assert [row["logprob_ref"] for row in own] == logprobs.tolist()
    assert len(rows) == sum(len(e.responses) for batch in scored[0] for e in batch)


def test_rewards_against_the_labels_are_found_before_the_first_step(scored):
    batches, logprobs, rewards = scored
    weighing = weigh(batches, logprobs, [-reward for reward in rewards], settings())
    names = [finding.name for finding in data_findings(weighing, Prepared([], [], 3, 19))]
    assert "inverted_rewards" in names
    assert "truncated_pairs" in names
