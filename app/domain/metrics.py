"""The one catalogue of metrics: what the worker may emit, what the charts draw and what the help texts say.

A key outside it is refused by a test. Mathematics of the weight metrics: docs/method.md.
"""

from dataclasses import dataclass, replace
from typing import Literal

# Edges of the weight histogram: 20 bins, two per decade from 1e-8 to 1e2; one more bin lies below them and one above.
WEIGHT_EDGES: tuple[float, ...] = tuple(10.0 ** (k / 2 - 8) for k in range(21))


@dataclass(frozen=True)
class Series:
    """One series. `better` is the direction that a user hopes for; `none` where neither is good as such."""

    key: str
    title: str
    unit: str
    better: Literal["up", "down", "none"]
    meaning: str


def _with_interval(
    key: str, title: str, unit: str, better: Literal["up", "down", "none"], meaning: str
) -> tuple[Series, Series, Series]:
    """Return a figure of held-out prompts and the ends of its 95 % interval."""
    return (
        Series(key, title, unit, better, meaning),
        Series(f"{key}_low", f"{title}, lower bound", unit, better, "Lower end of the 95 % interval."),
        Series(f"{key}_high", f"{title}, upper bound", unit, better, "Upper end of the 95 % interval."),
    )


def _of_test_set(series: Series) -> Series:
    key = series.key.replace("eval/", "test/")
    return replace(series, key=key, title=f"{series.title}, test set", meaning=f"{series.meaning} Of the test set, at the end.")


_METRICS = (
    # training
    Series("loss", "Loss", "", "down",
           "Weighted negative log-likelihood; the weights change with the batch, so it is noisy."),
    Series("learning_rate", "Learning rate", "", "none", "Learning rate of this step's update."),
    Series("grad_norm", "Gradient norm", "", "none", "Length of the whole gradient before clipping."),
    Series("tokens_per_second", "Throughput", "tokens/s", "up",
           "Tokens of prompts and responses that were trained on per second."),
    Series("step_seconds", "Time per step", "s", "down", "Wall-clock time of one optimizer step."),
    Series("peak_memory_bytes", "Peak memory", "bytes", "down",
           "Most memory held so far by training: of the GPU; on a CPU the weights and what the process grew by."),
    Series("cost/tokens", "Tokens spent", "tokens", "down",
           "Tokens of prompts and responses that were trained on so far, and of fresh responses that were drawn."),
    Series("cost/seconds", "Seconds spent", "s", "down",
           "Seconds so far that went into scoring, fresh responses and steps; without evaluations and without scores found."),
    Series("data/cut_prompts", "Prompts cut", "share", "down",
           "Share of the data set's prompts that were longer than tokens.max_prompt and lost their start."),
    Series("data/cut_responses", "Responses cut", "share", "down",
           "Share of the data set's responses that were longer than tokens.max_response: their end is not learned."),
    # weights of one batch
    Series("weight/mean", "Mean weight", "", "none",
           "Mean of w(x, y) over the responses that enter the loss; 1 when weights are rescaled to mean one."),
    Series("weight/std", "Spread of weights", "", "none",
           "Standard deviation of the weights; 0 means every response counts alike, which is plain fine-tuning."),
    Series("weight/min", "Smallest weight", "", "none", "Smallest weight of the batch."),
    Series("weight/max", "Largest weight", "", "none", "Largest weight of the batch."),
    Series("weight/p10", "Weight, 10th percentile", "", "none", "A tenth of the batch's weights lie below."),
    Series("weight/p50", "Weight, median", "", "none", "Half of the batch's weights lie below."),
    Series("weight/p90", "Weight, 90th percentile", "", "none", "Nine tenths of the batch's weights lie below."),
    Series("weight/ess", "Effective sample size", "responses", "none", "(Σw)²/Σw²: how many responses the batch is worth."),
    Series("weight/ess_share", "Effective sample size, share of the batch", "share", "none",
           "Effective sample size divided by the responses in the loss; near 0 one response takes all, at 1 all count alike."),
    Series("weight/entropy", "Entropy of Z(x)", "share", "none",
           "How evenly the candidates share Z(x): 1 evenly, 0 one candidate makes all of it."),
    Series("weight/share_above", "Responses above 0.99", "share", "none",
           "Share of responses that make more than 0.99 of their own prompt's Z(x)."),
    Series("weight/share_below", "Responses below 0.01", "share", "none",
           "Share of responses that make less than 0.01 of their own prompt's Z(x)."),
    Series("weight/spearman_length", "Weight follows length", "ρ", "none",
           "Rank correlation of weight and response length; far from 0, length decides rather than the reward."),
    Series("weight/spearman_reward", "Weight follows reward", "ρ", "up",
           "Rank correlation of weight and reward: it should be clearly positive."),
    Series("weight/share_chosen", "Weight on chosen", "share", "up",
           "Share of the batch's weight that lies on chosen responses."),
    Series("weight/share_rejected", "Weight on rejected", "share", "down",
           "Share of the batch's weight that lies on rejected responses."),
    Series("weight/off_diagonal", "Z(x) from other prompts", "share", "none",
           "How much of Z(x) comes from other prompts' responses; near 0 the batch's other prompts don't compete."),
    Series("weight/shortest_share", "Shortest response wins", "share", "down",
           "Share of prompts whose largest term of Z(x) belongs to their shortest candidate."),
    Series("weight/partition_error", "Error of log Z(x)", "nats", "down",
           "Standard error of log Z(x) from the spread of the reference's draws, root mean square over the prompts; at 1 a "
           "single draw makes Z(x)."),
    Series("weight/largest_exponent", "Largest |r/λ|", "nats", "none",
           "Largest reward over temperature, in size; above 80 exp would overflow outside log space."),
    # rewards of one batch
    Series("reward/mean", "Mean reward", "reward", "none",
           "Mean reward of the batch's responses, as the reward source gives it."),
    Series("reward/std", "Spread of rewards", "reward", "none", "Standard deviation of the batch's rewards."),
    Series("reward/chosen", "Reward of chosen", "reward", "up", "Mean reward of the batch's chosen responses."),
    Series("reward/rejected", "Reward of rejected", "reward", "none", "Mean reward of the batch's rejected responses."),
    Series("reward/gap", "Chosen minus rejected", "reward", "up",
           "How far the reward prefers chosen to rejected; at or below 0 it contradicts the data."),
    # the baselines
    Series("dpo/accuracy", "Pairs told apart by the policy", "share", "up",
           "Share of the batch's pairs where the policy has gained more on the chosen than on the rejected response."),
    Series("dpo/margin", "DPO margin", "", "up",
           "Mean of β times how much more log π_θ/π_ref is for the chosen than for the rejected response."),
    Series("dpo/gain_chosen", "Implicit reward of chosen", "", "up", "Mean β log π_θ/π_ref of the chosen responses."),
    Series("dpo/gain_rejected", "Implicit reward of rejected", "", "none", "Mean β log π_θ/π_ref of the rejected responses."),
    Series("pairs/accuracy", "Pairs told apart by implicit reward", "share", "up",
           "Share of the batch's pairs where the chosen response has the higher implicit reward: what the method takes for one."),
    Series("pairs/margin", "Margin of the pairs", "", "up",
           "Mean implicit reward of the chosen minus that of the rejected response."),
    Series("pairs/gain_chosen", "Gain of chosen", "", "up",
           "Mean implicit reward of the chosen responses: β log π_θ/π_ref per token (IPO), β log π_θ per token (SimPO), log odds "
           "(ORPO)."),
    Series("pairs/gain_rejected", "Gain of rejected", "", "none", "Mean implicit reward of the rejected responses."),
    Series("kto/gain_desirable", "Gain of desirable", "", "up", "Mean β log π_θ/π_ref of the batch's desirable responses."),
    Series("kto/gain_undesirable", "Gain of undesirable", "", "down",
           "Mean β log π_θ/π_ref of the batch's undesirable responses."),
    Series("kto/kl", "Reference point of KTO", "nats", "none",
           "How far the policy is from the reference by other prompts' responses, at least 0: gains are judged by it, times β."),
    Series("reward_model/accuracy", "Pairs told apart by the rewards", "share", "up",
           "Share of the batch's pairs whose chosen response has the higher reward."),
    Series("reward_model/margin", "Reward margin", "reward", "up", "Mean reward of chosen minus rejected in the batch's pairs."),
    # fresh responses, when training is online
    Series("online/reward_mean", "Reward of fresh responses", "reward", "up",
           "Mean reward of the policy's fresh responses to the batch's prompts."),
    Series("online/ess_share", "Effective sample size of fresh responses", "share", "none",
           "Effective sample size of each prompt's fresh responses, as a share of them, averaged over the batch's prompts."),
    Series("online/distinct_share", "Fresh responses that differ", "share", "none",
           "How many of a prompt's fresh responses differ from one another: 1 all of them, 0 they are all the same."),
    Series("online/kl", "KL from the reference, fresh", "nats", "none",
           "Mean log π_s − log π_ref of the fresh responses: how far the policy that drew them has moved."),
    Series("online/length", "Length of fresh responses", "tokens", "none", "Mean length of the batch's fresh responses."),
    Series("group/flat_share", "Prompts that teach nothing", "share", "down",
           "Share of the batch's prompts whose fresh responses all have the same reward: none is better than another."),
    Series("group/clipped_share", "Clipped ratios", "share", "none",
           "Share of tokens (RLOO: responses) whose π_θ/π_s has left the bounds, so that they gain nothing more."),
    Series("group/kl", "KL in the loss", "nats", "none",
           "Mean per token of π_ref/π_θ − log(π_ref/π_θ) − 1, the estimate of the KL from the reference in GRPO's loss."),
    # evaluation on the validation prompts; the same of the test set, once, at the end: see below
    Series("eval/num_prompts", "Prompts answered", "prompts", "none", "Held-out prompts that these figures are over."),
    *_with_interval("eval/reward_policy", "Reward of the policy", "reward", "up",
                    "Mean reward of the policy's answers to held-out prompts."),
    *_with_interval("eval/reward_reference", "Reward of the reference", "reward", "none",
                    "Mean reward of the reference's answers to the same prompts."),
    *_with_interval("eval/reward_gain", "Reward gained", "reward", "up",
                    "Policy's mean reward minus the reference's, on the same prompts."),
    *_with_interval("eval/win_rate", "Win rate", "share", "up",
                    "Share of held-out prompts where the policy's answer has the higher reward; ties count half."),
    *_with_interval("eval/length_win_rate", "Win rate at equal length", "share", "up",
                    "The win rate that is left when the policy's answers are as long as the reference's: liking length "
                    "alone does not win it."),
    *_with_interval("eval/kl", "KL from the reference", "nats", "none",
                    "KL(π_θ‖π_ref) per answer: the exact divergence of each token, summed along answers that the policy draws at "
                    "temperature 1 from all tokens, up to evaluation.max_new_tokens."),
    Series("eval/kl_se", "KL, standard error", "nats", "down", "Standard error of the KL over the prompts."),
    *_with_interval("eval/length_policy", "Length of policy's answers", "tokens", "none",
                    "Mean length of the policy's answers."),
    *_with_interval("eval/length_reference", "Length of reference's answers", "tokens", "none",
                    "Mean length of the reference's answers."),
    *_with_interval("eval/unfinished_policy", "Unfinished answers of the policy", "share", "down",
                    "Share of the policy's answers that reached evaluation.max_new_tokens without an end: they are judged as "
                    "broken off."),
    *_with_interval("eval/unfinished_reference", "Unfinished answers of the reference", "share", "none",
                    "Share of the reference's answers that reached evaluation.max_new_tokens without an end."),
    *_with_interval("eval/unfinished_draws", "Unfinished draws", "share", "none",
                    "Share of the draws the KL is over that reached evaluation.max_new_tokens: their KL is that of what was "
                    "drawn."),
    *_with_interval("eval/loss", "Held-out loss", "", "down",
                    "Mean negative log-likelihood per token of the held-out chosen responses under the policy."),
    Series("eval/num_preferences", "Preferences", "examples", "none",
           "Held-out examples with a chosen and a rejected response, which the next two are over."),
    *_with_interval("eval/preference_accuracy", "Preferences told apart", "share", "up",
                    "Share of held-out examples where log π_θ − log π_ref is larger for the chosen response; ties count half."),
    *_with_interval("eval/preference_margin", "Preference margin", "nats", "up",
                    "Mean of log π_θ − log π_ref of the chosen response minus that of the rejected one, held-out examples."),
    # evaluation of a reward model on held-out pairs
    Series("eval/num_pairs", "Pairs", "pairs", "none", "Held-out pairs that these figures are over."),
    *_with_interval("eval/pair_accuracy", "Held-out pairs told apart", "share", "up",
                    "Share of held-out pairs whose chosen response has the higher reward; ties count half."),
    *_with_interval("eval/pair_margin", "Held-out reward margin", "reward", "up",
                    "Mean reward of chosen minus rejected, held-out pairs."),
    *_with_interval("eval/pair_loss", "Held-out pair loss", "", "down",
                    "Mean −log σ(chosen − rejected) of held-out pairs."),
)  # fmt: skip

_FINAL = tuple(_of_test_set(metric) for metric in _METRICS if metric.key.startswith("eval/"))

CATALOGUE: dict[str, Series] = {metric.key: metric for metric in (*_METRICS, *_FINAL)}
