"""The signatures of degenerate weights and data: the names that findings can have, as data.

How each is recognised, in numbers: app.domain.findings. Why: docs/method.md.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Signature:
    """A finding that can be raised. `error` stops the run; `warning` and `info` only tell."""

    name: str
    severity: Literal["info", "warning", "error"]
    title: str
    rule: str
    remedy: str


_SIGNATURES = (
    Signature(
        "flat_rewards", "warning", "The rewards hardly tell the responses apart",
        "the rewards' standard deviation is below 0.001, or chosen minus rejected is within two standard errors of"
        " 0",
        "Nothing but the reference separates the responses, so this comes down to supervised fine-tuning. Choose "
        "another reward.model or reward.source, or look at the data set's ratings: they should differ between "
        "chosen and rejected.",
    ),
    Signature(
        "inverted_rewards", "warning", "The rewards contradict the preferences",
        "the reward ranks chosen above rejected in significantly fewer than half of the pairs (95 % Wilson "
        "interval)",
        "Check that the data set's mapping doesn't swap chosen and rejected, and that a larger reward means "
        "better; then choose another reward.model, or set reward.source to preference (which fresh responses don't have).",
    ),
    Signature(
        "reward_disagreement", "warning", "The reward models disagree",
        "the rewards of several reward models correlate by less than 0.5 on average over the scored responses",
        "More than half of what one model says is its own, so a policy that pleases it may please nobody else. Train reward "
        "models on more pairs, look at the data set's labels, or raise reward.caution, so that disputed responses count less.",
    ),
    Signature(
        "overflow_risk", "warning", "λ is too small for this reward's scale",
        "the largest |r/λ| is above 80",
        "Raise weights.lambda, set weights.reward_norm to zscore, or give weights.target_ess instead of λ.",
    ),
    Signature(
        "weight_collapse", "warning", "One response takes the batch",
        "the effective sample size is below 0.2 of the batch",
        "Raise weights.lambda, or give weights.target_ess (0.5, say) instead of it. With summed log-probabilities "
        "set weights.logprob_norm to mean.",
    ),
    Signature(
        "plain_sft", "warning", "The reward is not used",
        "more than 90 % of the responses make over 0.99 of their own Z(x), or the weights differ by less than "
        "0.001 of their mean",
        "Every response counts alike, as in supervised fine-tuning. Lower weights.lambda if the weights are equal;"
        " if each prompt's Z(x) is all its own, set weights.logprob_norm to mean, or weights.partition_scope to "
        "prompt with two or more responses per prompt.",
    ),
    Signature(
        "length_driven", "warning", "The weights follow length",
        "the rank correlation of weight and length is beyond ±0.5 and stronger than that of weight and reward",
        "Set weights.logprob_norm to mean or weights.preset to length_normalised, or lower weights.lambda so that the reward "
        "outweighs log π_ref. Where no weight reads log π_ref (presets within_prompt, reward_weighted, draws), the rewards "
        "themselves follow length: set reward.length_control to true.",
    ),
    Signature(
        "low_diversity", "warning", "Batches repeat themselves",
        "copies of responses, or one prompt, fill more than half of a batch",
        "Raise training.batch_size, or remove repeated rows from the data set: copies share one weight, and Z(x) "
        "is poorly estimated.",
    ),
    Signature(
        "divergence", "error", "Training diverged",
        "loss or gradient norm is not finite, or 100 times its recent median",
        "The step was not applied. Lower training.learning_rate, set training.grad_clip to 1, or raise "
        "training.warmup_share; with policy.dtype bfloat16 try float32.",
    ),
    Signature(
        "truncated_pairs", "warning", "Pairs are equal after truncation",
        "chosen and rejected are the same tokens once they are cut to the longest length",
        "Raise tokens.max_response (or tokens.max_prompt), or set tokens.overlong to drop: such pairs carry no "
        "signal.",
    ),
    Signature(
        "truncated", "warning", "Texts are cut",
        "more than 5 % of the prompts or of the responses are longer than their limit",
        "Raise tokens.max_prompt or tokens.max_response (the launch page suggests lengths), or set tokens.overlong to drop: "
        "a cut answer is learned without its end, and judged as it is cut.",
    ),
    Signature(
        "rows_left_out", "warning", "Rows are left out",
        "more than 5 % of the rows can't be read as the recipe wants them",
        "Change these rows, take a model whose chat template writes them, set tokens.prompt_format to plain, or look at "
        "reward.source and tokens.overlong.",
    ),
    Signature(
        "unfinished_answers", "warning", "Answers do not come to an end",
        "more than 20 % of the policy's answers to held-out prompts reach evaluation.max_new_tokens without an end",
        "Raise evaluation.max_new_tokens: rewards, win rate and lengths judge answers that were broken off. If it does not help, "
        "the policy does not learn to end: look at the tokens of its answers on the launch page, and at tokens.max_response.",
    ),
    Signature(
        "small_held_out", "info", "The test set is small for what it shall show",
        "half of the 95 % interval of the final win rate (without a judge: of the preference accuracy) is more than 10 points",
        "A win rate of 60 % could be chance here. Raise evaluation.share or evaluation.test_share for more test prompts, and "
        "evaluation.num_test_prompts if that limits them; or read the figures as no more than a direction.",
    ),
    Signature(
        "target_unreached", "info", "No λ gives the wanted effective sample size",
        "weights.target_ess lies outside of what any λ with all |r/λ| up to 80 gives, and weights.fallback names another λ",
        "If these weights are not meant, give weights.lambda, a weights.target_ess within reach, or another weights.preset.",
    ),
    Signature(
        "nothing_held_out", "warning", "Nothing is held out",
        "evaluation.share is above 0, but all examples belong to one conversation, which stays for training",
        "The run has no evaluation: no win rate, no KL and no samples to judge it by. Use a data set with several "
        "different conversations, or set evaluation.share to 0 if this is meant.",
    ),
    Signature(
        "online_collapse", "warning", "The fresh responses are all alike",
        "less than a fifth of a prompt's fresh responses differ from one another, in the mean over the prompts",
        "There is nothing left to weigh, so training only repeats what the policy says anyway. Set online.temperature to 1 or "
        "more, raise online.num_responses and weights.lambda, or lower training.learning_rate.",
    ),
    Signature(
        "flat_groups", "warning", "Most prompts teach nothing",
        "the fresh responses to more than half of the prompts have equal rewards, in the mean over the last 20 steps",
        "Only the other prompts move the policy, by steps that are the noisier. Raise online.num_responses, take harder or more "
        "varied prompts, or another reward.model, one that tells more than a few values.",
    ),
    Signature(
        "gradient_clipped", "info", "Most gradients are clipped",
        "the gradient norm is above training.grad_clip in more than half of the last 20 steps",
        "Clipping then sets the length of nearly every step, whatever the loss says: raise training.grad_clip, or take a clipped "
        "step for what it is and choose training.learning_rate by it.",
    ),
    Signature(
        "foreign_data", "warning", "The data were not written by the reference",
        "log π_ref per token of the data's responses is more than 0.3 nats and three standard errors away from that of the "
        "reference's own draws to the same prompts",
        "The weights take responses for draws of the reference, so no form ends at its optimum on these. First fine-tune on all "
        "responses (method sft with weights.responses both), then add that run's model and choose it as policy.model: it "
        "is policy and reference then. Or train on the reference's own draws: set weights.responses to draws.",
    ),
    Signature(
        "judge_is_reward", "info", "The judge is the reward that is trained on",
        "reward.judge is empty or the same model as reward.model, whose rewards the method learns from",
        "A gain may be a weakness of this reward model that training has found, rather than better answers. Name another reward "
        "model as reward.judge.",
    ),
    Signature(
        "judge_saw_held_out", "warning", "The judge was trained on held-out prompts",
        "a held-out prompt is of a conversation that the judging reward model has learned from",
        "It knows by heart what it judges here. Train the reward model on the same data set with this run's evaluation.share, "
        "evaluation.seed and evaluation.split, so that both hold out the same conversations, or name another reward.judge.",
    ),
)  # fmt: skip

SIGNATURES: dict[str, Signature] = {signature.name: signature for signature in _SIGNATURES}
