"""The methods on one data set: those that train a language model, and Bradley-Terry on a reward model, by one training loop."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from app.domain.errors import RecipeInvalid
from app.domain.recipe import Method, Recipe, find_idle_keeping
from app.domain.training.methods import NEED_PAIRS, ON_GROUPS
from app.domain.training.settings import find_kto_fault, tell_missing_pairs
from app.system.numbers import percent
from worker.models.classifier import build_classifier
from worker.models.compiled import compile_layers
from worker.models.lora import add_lora, find_unadapted
from worker.models.prompts import PromptFormat
from worker.stages.attempt import AttemptContext
from worker.stages.batches import count_steps
from worker.stages.evaluation.course import evaluate, finish, set_up
from worker.stages.examples import Encoded
from worker.stages.held_out import divide
from worker.stages.judging import judging_findings
from worker.stages.noise import add_noise, flip_batches, measure_noise
from worker.stages.prepare import Batches, Ground
from worker.stages.scoring.plans import BatchPlan
from worker.stages.scoring.sources import ReferenceSource
from worker.stages.scoring.stage import Scores
from worker.stages.scoring.stopping import find_served_lambda
from worker.stages.seeds import derive_seed
from worker.stages.training import loop as training_stage
from worker.stages.training.artifacts import keep_policy, keep_reward_model
from worker.stages.training.distribution import judge_by_lead, spread
from worker.stages.training.findings import data_findings, ensemble_findings, origin_findings, plan_findings, target_findings
from worker.stages.training.groups import GroupObjective
from worker.stages.training.objectives import (
    LabelledObjective,
    Objective,
    PairedObjective,
    PlainObjective,
    RewardObjective,
    WeightedObjective,
    find_pairs,
    labelled_batches,
    paired_batches,
    plain_batches,
)
from worker.stages.training.online import OnlineObjective
from worker.stages.training.recital import recite
from worker.stages.training.reward_model import ConversationEncoder, evaluate_pairs, finish_pairs, take_pairs
from worker.stages.training.weights import Weighing, save_weights, weigh
from worker.stages.treatment import Treatment, choose_treatment
from worker.var.preferences import Dpo, Ipo, Orpo, PairLoss, Simpo

NO_SPREAD = (
    "has one response per prompt, which has no deviation from itself: set reward.per_prompt to false, or take another data set."
)
# What the data's own responses are weighed by when fresh ones take their place in the loss.
WITHIN_PROMPT = {"weight_form": "ratio", "partition_scope": "prompt", "cross_reward": "reuse"}


def train_policy(attempt: AttemptContext, ground: Ground, scores: Scores) -> dict[str, float | None]:
    """Train a language model, judge it on held-out prompts, and keep it; returns the summary."""
    recipe = attempt.recipe
    model = scores.policy or ReferenceSource(attempt, ground).model
    with attempt.ranks.lead_first():
        checkpoint = training_stage.find_checkpoint(attempt)
    num_steps = count_steps(len(ground.batches), recipe.training.epochs, recipe.training.steps)
    objective = make_objective(attempt, ground, scores, num_steps)
    attempt.raise_findings(judging_findings(attempt, ground.prepared.held_out))
    with attempt.ranks.lead_first():
        held_out = set_up(attempt, model, ground)
    if recipe.policy.adaptation == "lora":
        model = add_lora(model, recipe.policy.lora, derive_seed(recipe.training.seed, "lora"))
        attempt.raise_findings(find_unadapted(model.network, recipe.policy.lora))
    model = spread(attempt, compile_layers(model, attempt.log) if recipe.policy.compile else model)
    judge, judge_final = (
        None if asked.is_empty else judge_by_lead(attempt, model, ground.policy_folder, partial(ask, attempt, held_out))
        for asked, ask in ((held_out.validation, evaluate), (held_out.test, finish))
    )
    training = training_stage.start(attempt, model, objective, judge, judge_final, num_steps, checkpoint)
    if checkpoint is None:
        training.progress.seconds = scores.seconds
    training_stage.train(training)
    weighing = objective.weighing if type(objective) is WeightedObjective else None  # fresh responses have other weights
    recite(attempt, model, ground, training.kept_step, weighing)
    keep_policy(attempt, model, ground)
    return training.progress.summary


def train_reward_model(attempt: AttemptContext, ground: Ground) -> dict[str, float | None]:
    """Train the policy's body under a fresh head on the preference pairs, and keep it as a reward model; returns the summary."""
    recipe, prepared, tokenizer = attempt.recipe, ground.prepared, ground.prompt_format.tokenizer
    prompt_format = PromptFormat.choose(tokenizer, day=attempt.day)
    if prompt_format.chat != ground.prompt_format.chat:
        attempt.log("A reward model reads conversations by its tokenizer's chat template, whatever tokens.prompt_format says.")
    reader = ConversationEncoder(prompt_format, ground.lengths.max_prompt + ground.lengths.max_response)
    policy = ReferenceSource(attempt, ground).model
    model = build_classifier(policy.network, tokenizer, derive_seed(recipe.training.seed, "head"))
    with attempt.ranks.lead_first():
        checkpoint = training_stage.find_checkpoint(attempt)
    attempt.raise_findings(plan_findings(prepared, recipe.evaluation.share))
    batches = flip_batches(ground.batches, recipe.noise)
    tell_unpaired(attempt, batches)
    read = [reader.read(batch, index) for index, batch in enumerate(batches)]
    sides = [take_pairs(reader, examples) for examples in divide(prepared.held_out, recipe.evaluation)]
    model = spread(attempt, model)
    judge, judge_final = (
        None if pairs is None else judge_by_lead(attempt, model, ground.policy_folder, partial(ask, attempt, pairs))
        for pairs, ask in zip(sides, (evaluate_pairs, finish_pairs), strict=True)
    )
    num_steps = count_steps(len(read), recipe.training.epochs, recipe.training.steps)
    objective = RewardObjective(read, recipe.training)
    training = training_stage.start(attempt, model, objective, judge, judge_final, num_steps, checkpoint)
    training_stage.train(training)
    if attempt.ranks.is_lead:
        keep_reward_model(attempt, model, ground, sides[0].batch if sides[0] else read[0])
    return training.progress.summary


def make_objective(attempt: AttemptContext, ground: Ground, scores: Scores, num_steps: int) -> Objective[Any, Any]:
    """Return the method's objective, with the findings that come before the first step."""
    recipe, settings = attempt.recipe, attempt.recipe.training
    if recipe.method is not Method.VAR:
        attempt.raise_findings(plan_findings(ground.prepared, recipe.evaluation.share))
        batches = flip_batches(ground.batches, recipe.noise)
        if recipe.method is Method.SFT:
            return PlainObjective(plain_batches(batches, recipe.weights), settings)
        if recipe.method in ON_GROUPS:
            return GroupObjective(plain_batches(ground.batches, recipe.weights), settings, attempt, ground, num_steps)
        if recipe.method is Method.KTO:
            weights = (recipe.kto.desirable_weight, recipe.kto.undesirable_weight)
            return LabelledObjective(labelled_batches(batches, scores.logprobs), settings, recipe.kto.beta, weights)
        tell_unpaired(attempt, batches)
        return PairedObjective(paired_batches(batches, scores.logprobs), settings, *make_loss(recipe))
    weighing = make_weights(attempt, ground, scores)
    if recipe.online.every is None:
        return WeightedObjective(weighing.batches, settings, weighing)
    noise_std = measure_noise(ground.batches, scores.rewards, recipe.noise)
    return OnlineObjective(weighing.batches, settings, weighing, attempt, ground, num_steps, noise_std, scores.scale)


def make_loss(recipe: Recipe) -> tuple[PairLoss, str]:
    """Return the loss of a method on pairs, and the prefix of its metrics."""
    if recipe.method is Method.DPO:
        return Dpo(recipe.dpo.beta), "dpo"
    made = {
        Method.IPO: Ipo(recipe.ipo.beta),
        Method.SIMPO: Simpo(recipe.simpo.beta, recipe.simpo.gamma),
        Method.ORPO: Orpo(recipe.orpo.beta),
    }
    return made[recipe.method], "pairs"


def _refuse_unlabelled(recipe: Recipe, examples: Sequence[Encoded]) -> None:
    labels = Counter(response.preference for example in examples for response in example.responses)
    only_pairs = all(len(find_pairs([example])[0]) for example in examples)
    if fault := find_kto_fault(recipe.kto, labels[1], labels[-1], only_pairs):
        raise RecipeInvalid.at(fault[0], f"The data set {fault[1]}")


def make_weights(attempt: AttemptContext, ground: Ground, scores: Scores) -> Weighing:
    """Weights of every batch, written to weights.parquet, with the findings that can be told before the first step.

    Online, the data's responses aren't trained on: they serve for λ and the rewards' scale, weighed within their prompts.
    """
    recipe = attempt.recipe
    settings = recipe.weights if recipe.online.every is None else recipe.weights.model_copy(update=WITHIN_PROMPT)
    batches, rewards = add_noise(scores.batches, scores.rewards, recipe.noise, recipe.reward.source)
    treatment = choose_treatment(batches, rewards, recipe.reward)
    rewards = treatment.matrices(rewards, batches)
    others = [treat(add_noise_to(plan, recipe), treatment) for plan in scores.others]
    served = find_served_lambda(recipe, attempt.spec.kind, scores.logprobs)
    weighing = replace(weigh(batches, scores.logprobs, rewards, settings, others), treatment=treatment, served=served)
    if recipe.reward.length_control:
        attempt.log(
            f"Length explained {treatment.fit.r_squared:.1%} of the rewards' variance, {treatment.fit.slope:+.3g} a token: that "
            "is taken out."
        )
    attempt.raise_findings(target_findings(weighing))
    if scores.facts is not None and scores.facts.draws is not None:
        attempt.raise_findings(origin_findings(scores.facts.draws))
    if scores.facts is not None:
        attempt.raise_findings(ensemble_findings(scores.facts.check.ensemble))
    tell_partners(attempt, weighing, 1 + len(scores.others))
    if not weighing.unreached and settings.target_ess is not None:
        attempt.log(f"lambda = {weighing.choices.lambda_:.6g} gives the wanted effective sample size {settings.target_ess:g}.")
    found, clean = settings.model_copy(update={"lambda_": weighing.choices.lambda_, "target_ess": None}), weighing
    if recipe.noise.label_flip_share or recipe.noise.reward_std:  # what is wrong with the data, not with the noise
        same = choose_treatment(scores.batches, scores.rewards, recipe.reward)
        clean = weigh(scores.batches, scores.logprobs, same.matrices(scores.rewards, scores.batches), found)
    attempt.temperatures = lambda: clean.temperatures
    attempt.raise_findings(data_findings(clean, ground.prepared, recipe.evaluation.share))
    if recipe.online.every is None:
        save_weights(attempt.artifacts_dir / "weights.parquet", weighing)
        attempt.announce("weights.parquet", "Reference log-probability, reward and weight of every response")
    return weighing


def add_noise_to(plan: BatchPlan, recipe: Recipe) -> BatchPlan:
    batches, rewards = add_noise(plan.batches, plan.rewards, recipe.noise, recipe.reward.source)
    return BatchPlan(batches, plan.logprobs, rewards)


def treat(plan: BatchPlan, treatment: Treatment) -> BatchPlan:
    return BatchPlan(plan.batches, plan.logprobs, treatment.matrices(plan.rewards, plan.batches))


def tell_partners(attempt: AttemptContext, weighing: Weighing, num_plans: int) -> None:
    """Say how much of the weights was chance of who met in a batch, where they were averaged over several plans."""
    if weighing.partner_share is not None:
        attempt.log(
            f"Which prompts meet in a batch makes {percent(weighing.partner_share)} of a weight's variance with one plan, and "
            f"{percent(weighing.partner_share / num_plans)} as the mean of {num_plans}."
        )


def tell_unpaired(attempt: AttemptContext, batches: Batches) -> None:
    """Say how many examples stay out of a loss on pairs; they keep their place, so that all methods have the same batches."""
    examples = [example for batch in batches for example in batch]
    num = sum(not len(find_pairs([example])[0]) for example in examples)
    if num:
        attempt.log(
            f"{num} of {len(examples)} examples have no pair of a chosen and a rejected response: they teach nothing here."
        )


def refuse_missing(recipe: Recipe, batches: Batches, num_held_out: int) -> None:
    """Raise RecipeInvalid when the training examples lack what the method needs, however they are labelled and rated, or are too
    few for a rule of `keep` to do anything.
    """
    num_steps = count_steps(len(batches), recipe.training.epochs, recipe.training.steps)
    if idle := find_idle_keeping(recipe, num_steps):
        raise RecipeInvalid.at(*idle)
    if recipe.keep.is_asked and num_held_out == 0:
        raise RecipeInvalid.at(
            recipe.keep.deciding,
            "All examples belong to one conversation, so none is held out that could decide this: take data of several, or keep "
            "the last model.",
        )
    examples = [example for batch in batches for example in batch]
    if recipe.method in NEED_PAIRS and not any(len(find_pairs([example])[0]) for example in examples):
        has_labels = any(response.preference for example in examples for response in example.responses)
        raise RecipeInvalid.at("method", f"The data set {tell_missing_pairs(recipe.method, has_labels)}")
    if recipe.method is Method.KTO:
        _refuse_unlabelled(recipe, examples)
    chosen = any(response.preference == 1 for example in examples for response in example.responses)
    if recipe.method is Method.SFT and recipe.weights.responses == "chosen" and not chosen:
        raise RecipeInvalid.at("weights.responses", "The data set has no chosen responses to train on: use both.")
    has_draws = recipe.weights.partition_scope == "draws"
    per_prompt = recipe.reward.per_prompt and recipe.method is Method.VAR and not has_draws
    if per_prompt and all(len(e.responses) == 1 for e in examples):
        raise RecipeInvalid.at("reward.per_prompt", "The data set " + NO_SPREAD)
    within = recipe.weights.partition_scope == "prompt" and recipe.weights.weight_form != "reward"
    single = recipe.method is Method.VAR and recipe.online.every is None and all(len(e.responses) == 1 for e in examples)
    if within and single:
        raise RecipeInvalid.at(
            "weights.partition_scope",
            "The data set has one response per prompt and no pairs, so weights within a prompt are all alike: "
            "use the scope batch, or another data set.",
        )
