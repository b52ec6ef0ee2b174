"""Stage score: rewards and reference log-probabilities of every batch, from the cache or from the models, one model at a time."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from app.domain.errors import InvalidInput
from app.domain.run import Stage
from worker.models.adapter import LanguageModel
from worker.models.load import hash_folder, hash_tokenizer, load_policy, resolve_folder
from worker.models.reward import RewardModel
from worker.stages.attempt import Attempt
from worker.stages.evaluate import release_memory
from worker.stages.ground import Batches, Ground
from worker.stages.score import (
    hash_texts,
    hash_tokens,
    needs_cross_logprobs,
    needs_cross_rewards,
    read_rewards,
    require_finite,
    score_logprobs,
    score_rewards,
)
from worker.stages.scorings import find_scoring, make_key, score_in_groups


def get_rewards(attempt: Attempt, batches: Batches) -> list[Tensor]:
    """Stage score, first half: r(x_i, y_j) of every batch, from the cache, the reward model or the data."""
    recipe, spec = attempt.recipe, attempt.spec
    if recipe.reward.source != "model":
        return [read_rewards(recipe, batch) for batch in batches]
    if spec.reward is None:
        raise InvalidInput.at("reward.model", "The recipe names a reward model, but the attempt's spec does not say where it is.")
    folder = resolve_folder(spec.reward, Path(spec.hub_dir))
    cross = needs_cross_rewards(recipe.weights)
    facts = {
        "weights": hash_folder(folder), "tokenizer": hash_tokenizer(folder), "dtype": recipe.policy.dtype, "cross": cross,
    }  # fmt: skip
    model: RewardModel | None = None

    def score(k: int) -> Tensor:
        nonlocal model
        if model is None:
            model = RewardModel(folder, dtype=recipe.policy.dtype, device=spec.device)
        scores = score_rewards(model, batches[k], cross=cross, check=attempt.stop.check)
        return require_finite(scores, batches[k], cross=cross, what="The reward model")

    scores = _scored(attempt, make_key("reward", facts, hash_texts(batches)), len(batches), score, "rewards")
    model = None
    release_memory()
    return scores


def get_policy_and_logprobs(attempt: Attempt, ground: Ground) -> tuple[LanguageModel, list[Tensor]]:
    """Stage score, second half: the untrained policy, which is the reference, and its log π_ref of every batch."""
    recipe, spec = attempt.recipe, attempt.spec
    policy = load_policy(ground.policy_folder, dtype=recipe.policy.dtype, device=spec.device)
    model = policy.language_model
    cross = needs_cross_logprobs(recipe.weights)
    facts = {"weights": hash_folder(ground.policy_folder), "dtype": recipe.policy.dtype, "cross": cross}

    def score(k: int) -> Tensor:
        scores = score_logprobs(model, ground.batches[k], cross=cross, check=attempt.stop.check)
        return require_finite(scores, ground.batches[k], cross=cross, what="The policy")

    key = make_key("logprob", facts, hash_tokens(ground.batches))
    return model, _scored(attempt, key, len(ground.batches), score, "log-probabilities")


def _scored(attempt: Attempt, key: str, num_batches: int, score: Callable[[int], Tensor], what: str) -> list[Tensor]:
    folder = Path(attempt.spec.scorings_dir)
    cached = find_scoring(folder, key, num_batches)
    if cached is not None:
        attempt.log(f"The {what} of all {num_batches} batches were scored before and are reused.")
        return cached
    progress = attempt.start_stage(Stage.SCORE, total=num_batches, unit=f"batches of {what}")
    return score_in_groups(folder, key, num_batches, score, progress)
