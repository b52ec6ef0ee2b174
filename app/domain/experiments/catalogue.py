"""The experiments there are: what each asks, what is expected and why, which runs it makes and how they are judged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.domain.errors import NotFound, RecipeInvalid
from app.domain.experiments import outcomes, plans
from app.domain.experiments.outcomes import Evidence, ExperimentOutcome
from app.domain.experiments.plans import ExperimentRequest
from app.domain.frontier import without_seeds
from app.domain.recipe import Method
from app.domain.sweep import LAMBDA, SweepRequest, label_of


@dataclass(frozen=True)
class Experiment:
    """`expected` says where the expectation comes from. `axis`: what the settings differ in, as the plot names it."""

    name: str
    title: str
    question: str
    expected: str
    axis: str
    paths: tuple[str, ...]  # what its settings change, one of them each; other variants of its sweep are left aside
    plan: Callable[[dict[str, Any]], dict[str, Any]]
    judge: Callable[[Evidence], ExperimentOutcome]
    is_rewarded: bool = True  # judged by the rewards of answers to test prompts
    num_settings: int = 1
    label: Callable[[Mapping[str, Any]], str] = label_of  # of a setting, from its changes


EXPERIMENTS: Mapping[str, Experiment] = {
    one.name: one
    for one in (
        Experiment(
            "overfit",
            "Learn one batch by heart",
            "Can the policy learn one batch of the data at all?",
            "The loss falls to less than 5 % of what it was. Where it doesn't, something before the method is at fault: the "
            "texts, the end of a turn, the learning rate. A look at this is worth its minute before every longer run.",
            "", ("training.seed",), plans.learn_by_heart, outcomes.judge_by_heart, is_rewarded=False,
        ),
        Experiment(
            "temperature",
            "Reward against λ",
            "How much reward does a smaller temperature λ buy, and for how much distance from the reference?",
            "The smallest λ gains more than the largest and lies further from the reference: λ is the price of distance in the "
            "objective. If it doesn't, the weights don't follow the rewards; the findings of the runs say why.",
            "λ, in standard deviations of the rewards", (LAMBDA,), plans.vary_temperature, outcomes.judge_temperatures,
            num_settings=len(plans.TEMPERATURES),
        ),
        Experiment(
            "methods",
            "VAR beside SFT and DPO",
            "Does VAR gain at least as much as SFT and DPO on the same data, each at the learning rate that suits it?",
            "The paper (arXiv 2502.11026) states rewards and win rates no lower than those of DPO and SFT. Each method is run at "
            "three learning rates; the validation prompts choose one, the test prompts compare rewards.",
            "Method and learning rate", (plans.RATE,), plans.vary_method, outcomes.judge_methods,
            num_settings=3 * len(plans.RATE_FACTORS), label=plans.label_method,
        ),
        Experiment(
            "batch",
            "How many prompts share a Z(x)",
            "What does B change, when the learning rate goes with it and every run sees as many examples?",
            "The paper states that B = 8 did best and that B = 2 still worked. Without the coupled learning rate a larger B only "
            "means fewer steps.",
            "B", (plans.SIZE,), plans.vary_batch_size, outcomes.judge_batch_sizes, num_settings=len(plans.BATCH_SIZES),
            label=plans.label_batch_size,
        ),
        Experiment(
            "noise",
            "Noisy rewards",
            "How much of the gain is left when labels are flipped, or rewards are noisy?",
            "Clean rewards gain more than the noisiest. In between the gain should fall without a cliff, as a noisy weight is "
            "still right on average in its logarithm: the plot shows it, the verdict compares the ends.",
            "Noise", plans.NOISES, plans.vary_noise, outcomes.judge_noise, num_settings=len(plans.REWARD_NOISES),
            label=plans.label_noise,
        ),
        Experiment(
            "online",
            "Fresh responses against the data's own",
            "Does it pay to draw new responses from the policy while it learns?",
            "Fresh responses gain more for the same number of steps: they are drawn from near what the policy says now, where "
            "the data's come from elsewhere. They cost the seconds of drawing them.",
            "Responses", (plans.ONLINE,), plans.go_online, outcomes.judge_online, num_settings=2, label=plans.label_online,
        ),
    )
}  # fmt: skip


def get_experiment(name: str) -> Experiment:
    """Raises NotFound, naming those there are."""
    if name not in EXPERIMENTS:
        raise NotFound(f"There is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]


def name_variant(experiment: str, changes: Mapping[str, Any]) -> str:
    """Return what a variant is called, where it is a setting of this experiment, by the experiment's own words: `VAR at 0.001,
    seed 1`; else, or without an experiment, as in any sweep.
    """
    known, bare = EXPERIMENTS.get(experiment), without_seeds(changes)
    if known is None or bare.keys().isdisjoint(known.paths):
        return label_of(changes)
    seeds = label_of({path: value for path, value in changes.items() if path not in bare})
    return ", ".join(filter(None, (known.label(bare), seeds)))


def conclude(experiment: Experiment, evidence: Evidence) -> ExperimentOutcome:
    """Return what an experiment came to whose runs have all ended."""
    missing = [one.label for one in evidence.settings if (one.gain if experiment.is_rewarded else one.losses) is None]
    return outcomes.close(experiment.judge(evidence), missing)


def refuse_unknown(name: str) -> None:
    """Raises RecipeInvalid for a sweep that names an experiment that is none; without a name it need not be one."""
    if name and name not in EXPERIMENTS:
        raise RecipeInvalid.at("experiment", f"There is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}.")


def ask(experiment: Experiment, request: ExperimentRequest) -> SweepRequest:
    """Return the sweep that an experiment asks for.

    Raises RecipeInvalid with the recipe's faults, or when nothing could judge its runs.
    """
    recipe = plans.prepare(request)
    refuse_unjudged(experiment, recipe)
    parts = experiment.plan(recipe)
    fields = {**parts.get("fields", {}), **(plans.put_seeds(recipe, request.seeds) if experiment.is_rewarded else {})}
    return SweepRequest.model_validate(
        {**parts, "fields": fields, "name": request.name or experiment.title, "experiment": experiment.name}
    )


def refuse_unjudged(experiment: Experiment, recipe: Mapping[str, Any]) -> None:
    """Raises RecipeInvalid for a recipe whose runs would leave the question open."""
    if recipe["method"] != Method.VAR:
        raise RecipeInvalid.at("method", "Experiments are about VAR: take a recipe whose method is var.")
    if not experiment.is_rewarded:
        return
    reward, evaluation = recipe["reward"], recipe["evaluation"]
    if reward["source"] != "model" and not reward["judge"]:
        text = "The answers of this experiment are compared by their rewards: name a judge, or a reward model."
        raise RecipeInvalid.at("reward.judge", text)
    if not evaluation["share"] or not evaluation["num_test_prompts"] or not evaluation["test_share"]:
        raise RecipeInvalid.at("evaluation.share", "This experiment is judged on test prompts: hold some of the data out.")
