from dataclasses import asdict

import pytest

from app.domain.errors import RecipeInvalid
from app.domain.recipe import parse_recipe
from app.domain.training.keeping import KeepSettings, Selection, tell_kept
from app.domain.training.methods import Method

BEST = KeepSettings(model="best")


def course(keep: KeepSettings, gains, kls=(), method=Method.VAR, key="eval/reward_gain", every: int = 10) -> Selection:
    """Evaluations at 0, 10, 20 … until a rule stops the run; the first is of the untrained model."""
    standing = Selection()
    for k, gain in enumerate(gains):
        standing.take({key: gain, "eval/kl": kls[k] if kls else float(k)}, k * every, keep, method)
        standing = Selection(**asdict(standing))  # as a checkpoint has it
        if standing.stopped:
            break
    return standing


def test_the_best_is_the_largest_gain_of_a_trained_model():
    assert course(BEST, [0.0, 1.0, 3.0, 2.0]).best_step == 20
    assert course(BEST, [9.0, 1.0, 3.0, 2.0]).best_step == 20
    assert course(BEST, [0.0, 1.0, 1.0]).best_step == 10  # of equal ones the earlier


def test_a_loss_is_best_where_it_is_smallest():
    assert course(BEST, [5.0, 4.0, 3.0, 3.5], method=Method.SFT, key="eval/loss").best_step == 20


def test_sft_without_a_judge_is_judged_by_its_loss_and_the_others_by_the_preferences():
    metrics = {"eval/preference_accuracy": 0.5, "eval/loss": 3.0}
    for method, key in ((Method.SFT, "eval/loss"), (Method.DPO, "eval/preference_accuracy")):
        standing = Selection()
        standing.take(metrics, 10, BEST, method)
        assert standing.key == key


def test_outside_of_the_budget_nothing_is_best_but_the_nearest():
    keep = KeepSettings(model="best", kl_budget=2.0)
    assert course(keep, [0.0, 1.0, 3.0, 9.0], kls=[0, 1, 2, 4]).best_step == 20
    far = course(keep, [0.0, 1.0, 3.0, 9.0], kls=[0, 5, 3, 4])
    assert far.best_step == 20
    assert "No evaluation was within the KL budget of 2.00 nats: the model is that of step 20" in tell_kept(far, keep, 30, 30)


def test_patience_counts_evaluations_without_a_better_one_and_starts_again_after_a_gain():
    keep = KeepSettings(patience=2)
    stopped = course(keep, [0.0, 1.0, 0.5, 2.0, 1.9, 2.0, 7.0])
    assert stopped.num_stale == 2
    assert tell_kept(stopped, keep, 50, 60) == (
        "Training stopped after step 50 of 60, as 2 evaluations in a row were no better than the best before. "
        "The model is that of this step."
    )
    assert not course(keep, [0.0, 1.0, 0.5, 2.0, 1.9]).stopped


def test_a_gain_outside_of_the_budget_is_none():
    keep = KeepSettings(model="best", kl_budget=2.0, patience=2)
    assert course(keep, [0.0, 1.0, 3.0, 9.0], kls=[0, 1, 3, 4]).stopped


def test_the_first_evaluation_above_the_budget_stops():
    keep = KeepSettings(model="best", kl_budget=2.0, stop_over_budget=True)
    standing = course(keep, [0.0, 1.0, 3.0, 9.0], kls=[0, 1, 3, 4])
    assert (standing.best_step, standing.stopped) == (10, "its KL of 3.00 nats was above the budget of 2.00")
    assert tell_kept(standing, keep, 20, 30) == (
        "The model is that of step 10, the best on validation (reward gained 1.00, KL 1.00 of at most 2.00 nats). "
        "Training stopped after step 20 of 30, as its KL of 3.00 nats was above the budget of 2.00."
    )


def test_it_is_said_when_no_model_was_better_than_the_untrained_one():
    assert tell_kept(course(BEST, [0.0, -1.0, -2.0]), BEST, 20, 20).endswith("None was better than the untrained model (0).")


def test_a_figure_that_is_missing_is_no_gain():
    standing = course(KeepSettings(model="best", patience=2), [None, None, 1.0, None, None])
    assert (standing.best_step, standing.num_stale) == (20, 2)


def test_nothing_is_told_of_a_run_that_ends_as_planned():
    assert tell_kept(Selection(), KeepSettings(), 30, 30) == ""


def ask(keep: dict, **parts) -> str:
    """The refusal of a recipe, or nothing."""
    data = {"dataset": "d", "policy": {"model": "p"}, "weights": {"lambda": 1}, **parts, "keep": keep}
    try:
        parse_recipe(data)
    except RecipeInvalid as error:
        return f"{error.problems[0]['field']}: {error.problems[0]['message']}"
    return ""


@pytest.mark.parametrize(
    ("keep", "parts", "said"),
    [
        ({"patience": 5}, {}, "keep.patience: It can never stop this run: 5 evaluations without a better one are over only when"),
        ({"patience": 3}, {"training": {"steps": 30}, "evaluation": {"every": 10}}, "Take 2 or less, or evaluate more often"),
        ({"patience": 1}, {"training": {"steps": 30}, "evaluation": {"every": 30}}, "which is evaluated only at its end"),
        ({"stop_over_budget": True}, {}, "keep.stop_over_budget: There is no KL budget to be over, so this rule can never stop"),
        ({"kl_budget": 3}, {}, "keep.kl_budget: Nothing reads the KL budget: set keep.model to best"),
        ({"model": "best"}, {"evaluation": {"share": 0}}, "keep.model: Nothing is held out, so nothing is evaluated that could"),
        ({"patience": 2}, {"evaluation": {"share": 0}}, "keep.patience: Nothing is held out"),
        (
            {"step": 30},
            {"training": {"steps": 30}},
            "keep.step: The run has 30 steps, so it ends with the model of step 30 anyway",
        ),
        ({"step": 3, "model": "best"}, {}, "keep.step: A step that is named is kept whatever the evaluations say"),
        ({"model": "best", "kl_budget": 3}, {"evaluation": {"num_prompts": 0}}, "No validation prompt is answered, so no KL is"),
        ({"model": "best", "kl_budget": 3}, {"method": "reward_model"}, "A reward model gives no answers, so no KL is measured"),
        (
            {"stop_over_budget": True, "kl_budget": 3},
            {"training": {"steps": 30}, "evaluation": {"every": 40}},
            "keep.stop_over_budget: It can never stop this run, which is evaluated only at its end",
        ),
    ],
)
def test_a_rule_that_can_never_do_anything_is_refused_with_a_sentence(keep, parts, said):
    assert said in ask(keep, **parts)


@pytest.mark.parametrize(
    ("keep", "parts"),
    [
        ({"patience": 4}, {}),
        ({"patience": 2}, {"training": {"steps": 30}, "evaluation": {"every": 10}}),
        ({"patience": 7}, {"evaluation": {"every": 10}}),  # how many steps there are is known at the launch
        ({"model": "best", "kl_budget": 3, "stop_over_budget": True}, {}),
    ],
)
def test_rules_that_can_fire_are_taken(keep, parts):
    assert ask(keep, **parts) == ""
