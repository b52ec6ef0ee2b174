"""What is known before any model is loaded: tokens, the held-out split and the batch plan."""

from dataclasses import dataclass
from pathlib import Path

from app.domain.run import Stage
from worker.models.load import context_window, load_config, load_tokenizer, resolve_folder
from worker.models.prompts import PromptFormat
from worker.stages.attempt import AttemptContext
from worker.stages.batches import plan_batches
from worker.stages.examples import Encoded, Lengths, Prepared, fit_lengths, prepare
from worker.stages.held_out import divide

Batches = list[list[Encoded]]


@dataclass(frozen=True)
class Ground:
    """What is known before any model is loaded."""

    policy_folder: Path
    prompt_format: PromptFormat
    lengths: Lengths
    prepared: Prepared
    batches: Batches


def lay_ground(attempt: AttemptContext) -> Ground:
    """Stage prepare: tokens, the held-out split and the batch plan."""
    recipe = attempt.recipe
    progress = attempt.start_stage(Stage.PREPARE, unit="examples")
    folder = resolve_folder(attempt.spec.policy, Path(attempt.spec.hub_dir))
    window = context_window(load_config(folder))
    lengths = fit_lengths(recipe.tokens, recipe.evaluation.max_new_tokens, window)
    if (lengths.max_prompt, lengths.max_response) != (recipe.tokens.max_prompt, recipe.tokens.max_response):
        attempt.log(
            f"The policy's context window is {window} tokens: prompts are cut to {lengths.max_prompt}, "
            f"responses to {lengths.max_response}, answers to {lengths.max_new_tokens}."
        )
    prompt_format = PromptFormat.choose(load_tokenizer(folder), recipe.tokens.prompt_format, attempt.day)
    prompt_format.check("The policy")
    reward_formats = _read_reward_formats(attempt)
    path = Path(attempt.spec.dataset_path)
    prepared = prepare(recipe, path, prompt_format, lengths, progress, reward_formats, attempt.stop.check)
    _log_prepared(attempt, prepared)
    both = {"data/cut_prompts": prepared.notes.cut_prompts, "data/cut_responses": prepared.notes.cut_responses}
    attempt.constants |= {key: cut / max(1, num) for key, (cut, num) in both.items()}
    plan = plan_batches(len(prepared.train), recipe.training.batch_size, recipe.training.seed)
    return Ground(folder, prompt_format, lengths, prepared, [[prepared.train[i] for i in batch] for batch in plan])


def _read_reward_formats(attempt: AttemptContext) -> list[PromptFormat]:
    """Return how reward models and judge write conversations: what they can't read is known before any scoring."""
    sources = (attempt.spec.reward, *attempt.spec.further, attempt.spec.judge)
    folders = {resolve_folder(source, Path(attempt.spec.hub_dir)) for source in sources if source}
    return [PromptFormat.choose(load_tokenizer(folder), day=attempt.day) for folder in sorted(folders)]


def _log_prepared(attempt: AttemptContext, prepared: Prepared) -> None:
    details = prepared.notes.tell()
    validation, test = divide(prepared.held_out, attempt.recipe.evaluation)
    attempt.log(
        f"{len(prepared.train)} examples to train on, {len(prepared.held_out)} held out ({len(validation)} for validation, "
        f"{len(test)} for the test at the end){details and f'; {details}'}."
    )
