"""The words of the recipe as people read them: labels of its settings, what each option of a choice means, names of the methods.

An option keeps the recipe's own word where that helps to find it in a YAML file or in the documents.
"""

from collections.abc import Mapping
from typing import Any

from app.domain.recipe import Method, Preset
from app.domain.training.methods import ON_GROUPS, ON_PAIRS
from app.services.acts import KINDS
from app.web.rendering import format

LABELS = {  # where a field's own name is a word of the machine
    "max_examples": "Number of examples",
    "dataset": "Data set",
    "policy.model": "Policy",
    "policy.dtype": "Number type",
    "policy.saved_dtype": "Number type of the saved model",
    "policy.lora.rank": "LoRA rank",
    "policy.lora.alpha": "LoRA alpha",
    "policy.lora.dropout": "LoRA dropout",
    "policy.lora.target_modules": "LoRA target modules",
    "policy.quantization": "Bits of the frozen weights",
    "policy.compile": "Compile the network",
    "reward.revision": "Revision",
    "reward.dtype": "Number type of the reward model",
    "reward.source": "Where rewards come from",
    "reward.model": "Reward model",
    "reward.second": "Second reward model",
    "reward.third": "Third reward model",
    "reward.caution": "Caution k",
    "reward.judge": "Judge of evaluations",
    "reward.length_control": "Take length out of rewards",
    "reward.per_prompt": "Rewards within each prompt",
    "reward.accept_inverted": "I know, and mean it",
    "evaluation.recite": "Prompts to recite",
    "weights.lambda": "Temperature λ",
    "weights.target_ess": "Target effective sample size",
    "weights.fallback": "Where no λ gives that share",
    "weights.weight_form": "Form of the weight",
    "weights.partition_scope": "Scope of Z(x)",
    "weights.logprob_norm": "Log-probability of a response",
    "weights.cross_reward": "Reward across prompts",
    "weights.reward_norm": "Normalisation of rewards",
    "weights.loss_norm": "Normalisation of the loss",
    "weights.mean_one": "Rescale weights to mean 1",
    "weights.plans": "Batch plans to average over",
    "weights.responses": "Responses in the loss",
    "draws.num_draws": "Draws per prompt",
    "draws.max_new_tokens": "Longest draw",
    "draws.temperature": "Temperature of the draws",
    "draws.top_p": "Top-p of the draws",
    "draws.seed": "Seed of π_ref's draws",
    "noise.label_flip_share": "Share of swapped labels",
    "noise.reward_std": "Noise on the rewards",
    "noise.seed": "Seed of the noise",
    "scoring.backend": "Way of scoring",
    "scoring.early_stopping": "Drop pairs that cannot count",
    "scoring.smallest_lambda": "Smallest λ to serve",
    "dpo.beta": "β",
    "ipo.beta": "β",
    "simpo.beta": "β",
    "simpo.gamma": "Target margin γ",
    "kto.beta": "β",
    "kto.desirable_weight": "Weight of desirable",
    "kto.undesirable_weight": "Weight of undesirable",
    "kto.split_pairs": "Split pairs",
    "group.clip": "Bound of the ratio ε",
    "group.kl_weight": "Weight of the KL κ",
    "orpo.beta": "Weight of the odds ratio β",
    "online.every": "Steps between rounds",
    "online.num_responses": "Fresh responses per prompt",
    "online.max_new_tokens": "Longest fresh response",
    "online.temperature": "Temperature of fresh responses",
    "tokens.max_prompt": "Longest prompt",
    "tokens.max_response": "Longest response",
    "tokens.overlong": "Examples over these lengths",
    "training.seed": "Seed of training",
    "training.micro_batch_size": "Micro-batch size",
    "training.schedule": "Learning-rate schedule",
    "training.warmup_share": "Warm-up share",
    "training.grad_clip": "Gradient clipping",
    "training.num_processes": "Devices that train together",
    "training.sharding": "What each device holds",
    "training.checkpoint_every": "Steps between checkpoints",
    "training.keep_checkpoints": "Checkpoints to keep",
    "keep.model": "The run's model",
    "keep.step": "Step of the model",
    "keep.kl_budget": "KL budget",
    "keep.patience": "Evaluations without a gain",
    "keep.stop_over_budget": "Stop above the KL budget",
    "evaluation.share": "Held-out share",
    "evaluation.split": "Held out together",
    "evaluation.every": "Steps between evaluations",
    "evaluation.test_share": "Test share of the held-out",
    "evaluation.num_prompts": "Validation prompts to answer",
    "evaluation.num_test_prompts": "Test prompts to answer",
    "evaluation.num_samples_shown": "Samples to keep",
    "evaluation.max_new_tokens": "Longest answer",
    "evaluation.temperature": "Temperature of answers",
    "evaluation.top_p": "Top-p (nucleus)",
    "evaluation.seed": "Seed of the held-out split",
    "evaluation.prompt_seed": "Seed of the prompts",
    "evaluation.draw_seed": "Seed of the draws",
}

LABELS_ELSEWHERE = {  # of the other forms, by the last word of the request's path
    "address": "Address",
    "batch_size": "Batch sizes",
    "contestant": "Models",
    "days": "Days",
    "endpoint": "Model",
    "judge": "Judge",
    "judges": "Judges",
    "key": "Key",
    "label_flip_share": "Share of swapped labels",
    "lambda": "λ grid",
    "margin": "Margin",
    "max_new_tokens": "Longest answer",
    "model": "Model",
    "models": "Model",
    "n": "Answers per prompt",
    "name": "Name",
    "noise_seed": "Seed of the noise",
    "num_draws": "Answers per prompt",
    "num_prompts": "Number of prompts",
    "part": "Of a run, the prompts held out for",
    "pattern": "Pattern",
    "prompt_format": "Prompt format",
    "prompts": "Prompts",
    "revision": "Revision",
    "reward_std": "Noise on the rewards",
    "run": "Run",
    "run_id": "Run",
    "seed": "Seed",
    "shape": "Of each prompt’s answers",
    "step": "Checkpoint",
    "target_ess": "Target effective sample size",
    "temperature": "Temperature",
    "text": "Prompts",
    "top_p": "Top p",
}
WHAT_TO_DO = {  # where nothing was chosen; else it is to be filled in
    "dataset": "Choose a data set.",
    "policy.model": "Choose a policy.",
    "reward.model": "Choose a reward model.",
    "judge": "Choose a judge.",
    "judges": "Choose a judge.",
    "model": "Choose a model.",
    "models": "Choose a model.",
    "run_id": "Choose a run.",
}

METHODS: dict[str, str] = {
    Method.VAR: "VAR",
    Method.SFT: "SFT",
    Method.DPO: "DPO",
    Method.IPO: "IPO",
    Method.SIMPO: "SimPO",
    Method.ORPO: "ORPO",
    Method.KTO: "KTO",
    Method.RAFT: "RAFT",
    Method.RLOO: "RLOO",
    Method.GRPO: "GRPO",
    Method.REWARD_MODEL: "Reward model",
}
SWITCH = {"yes": "Yes", "no": "No"}
OPTIONS: dict[str, dict[str, str]] = {
    "method": METHODS,
    "reward.source": {"preference": "Preference label", "rating": "Rating", "model": "Reward model"},
    "reward.dtype": {"float32": "32 bits (float32)", "bfloat16": "16 bits (bfloat16)"},
    "evaluation.split": {"conversation": "Whole conversations", "prompt": "Equal prompts only"},
    "weights.preset": {
        "length_normalised": "Length normalised",
        "paper": "Paper",
        "within_prompt": "Within prompt",
        "reward_weighted": "Reward weighted",
        "draws": "Draws of the reference",
    },
    "policy.adaptation": {"full": "All weights", "lora": "A LoRA adapter"},
    "policy.dtype": {"float32": "32 bits (float32)", "bfloat16": "16 bits (bfloat16)"},
    "policy.saved_dtype": {
        "base": "The base model's own",
        "float32": "32 bits (float32)",
        "bfloat16": "16 bits (bfloat16)",
        "float16": "16 bits (float16)",
    },
    "policy.quantization": {"none": "As the number type says", "nf4": "4 bits (nf4, for QLoRA)"},
    "weights.fallback": {"none": "Refuse the run", "reward_std": "λ is the rewards' standard deviation"},
    "weights.weight_form": {
        "posterior": "Posterior over the candidates",
        "ratio": "Importance ratio, exp(r/λ)/Z",
        "reward": "Reward alone, exp(r/λ)",
    },
    "weights.partition_scope": {
        "batch": "The whole batch",
        "prompt": "The same prompt only",
        "draws": "Draws of the reference",
    },
    "weights.logprob_norm": {"sum": "Sum over its tokens", "mean": "Mean per token"},
    "weights.cross_reward": {"score": "Ask the reward model (score)", "reuse": "Reuse the response's own (reuse)"},
    "weights.reward_norm": {"none": "As they are", "zscore": "In standard deviations (zscore)"},
    "weights.loss_norm": {
        "token_mean": "Mean over all tokens (token_mean)",
        "sequence_sum": "Sum per response (sequence_sum)",
        "sequence_mean": "Mean per response (sequence_mean)",
    },
    "weights.mean_one": {
        "batch": "Each batch by itself",
        "dataset": "All weights by one constant",
        "off": "Nothing",
    },
    "weights.responses": {
        "both": "Chosen and rejected",
        "chosen": "Chosen only",
        "draws": "Draws of the reference only",
        "all": "The data's and the draws",
    },
    "scoring.backend": {
        "auto": "The fastest that is right (auto)",
        "shared": "Each prompt once (shared)",
        "flex": "FlexAttention on a GPU (flex)",
        "naive": "Every pair in full (naive)",
    },
    "tokens.overlong": {"truncate": "Cut to length (truncate)", "drop": "Leave out (drop)"},
    "tokens.prompt_format": {
        "auto": "Chat template, if there is one (auto)",
        "chat": "Chat template (chat)",
        "plain": "Human and Assistant turns (plain)",
    },
    "keep.model": {"last": "That of the last step", "best": "The best on validation"},
    "training.schedule": {"cosine": "Falls along a cosine", "linear": "Falls in a straight line", "constant": "Stays constant"},
    "training.sharding": {"none": "The whole policy", "full": "Its share of everything (FSDP2)"},
}

METHOD_TEXTS: dict[str, str] = {
    Method.VAR: "Reward-weighted fine-tuning: each response counts by its share of the best policy there is.",
    Method.SFT: "Plain fine-tuning: every response counts alike. The baseline to beat.",
    Method.DPO: "Preference pairs, beside a frozen reference. The usual baseline; needs no rewards.",
    Method.IPO: "Preference pairs, towards a fixed margin per token. When pairs are few or noisy.",
    Method.SIMPO: "Pairs by mean log-probability, without a reference. When lengths differ, or memory is short.",
    Method.ORPO: "Fine-tunes on chosen and pushes rejected away at once. From a base model, in one go.",
    Method.KTO: "Single responses labelled good or bad, beside the reference. When there are thumbs, but no pairs.",
    Method.RAFT: "The policy answers K times; it is fine-tuned on the best. The simplest way to learn from rewards online.",
    Method.RLOO: "The policy answers K times; each answer against the mean of the others. Online, for noisy rewards.",
    Method.GRPO: "As RLOO, in deviations of the prompt's answers, token by token. Online, for rewards that check a result.",
    Method.REWARD_MODEL: "Learns from the preference pairs to score responses; the result scores at once.",
}
PRESET_TEXTS: dict[str, str] = {
    Preset.LENGTH_NORMALISED: "Posterior weights from the mean log-probability per token: long and short compete fairly. "
    "To begin with, and whenever responses differ in length.",
    Preset.PAPER: "The published formula to the letter: summed log-probabilities, which tend to favour short responses. "
    "To repeat the paper, or where lengths are alike.",
    Preset.WITHIN_PROMPT: "Importance weights among the responses to the same prompt only; needs pairs. "
    "When some prompts are rewarded far more than others.",
    Preset.DRAWS: "exp(r/λ)/Z(x) with Z(x) from the reference's own answers to each prompt; needs a reward model. "
    "When prompts differ in difficulty, and the data are the reference's own.",
    Preset.REWARD_WEIGHTED: "exp(r/λ) without the reference's probability. As the control: what does the reference add?",
}
SOURCE_TEXTS = {
    "preference": "The label of the data: +1 for chosen, −1 for rejected.",
    "rating": "The rating column of the data set.",
    "model": "A reward model scores every response.",
}


def method_name(method: str) -> str:
    """Return the method as the pages name it."""
    return METHODS[method]


def settings_in_brief(recipe: Mapping[str, Any]) -> str:
    """Return what a run of this recipe does, in a few words: the settings that its method turns on."""
    method, weights = recipe.get("method", Method.VAR), recipe["weights"]
    if method == Method.SFT:
        return OPTIONS["weights.responses"][weights["responses"]].lower()
    if method == Method.SIMPO:
        return f"β {format.exact(recipe['simpo']['beta'])}, γ {format.exact(recipe['simpo']['gamma'])}"
    if method in (*ON_PAIRS, Method.KTO):
        return f"β {format.exact(recipe[method]['beta'])}"
    if method in ON_GROUPS:
        kl = "" if method == Method.RAFT else f", κ {format.exact(recipe['group']['kl_weight'])}"
        return f"{recipe['online']['num_responses']} fresh responses each{kl}"
    if method == Method.REWARD_MODEL:
        return "from preference pairs"
    by_lambda = f"λ {format.exact(weights['lambda'])}" if weights["lambda"] is not None else ""
    online = ", fresh responses" if (recipe.get("online") or {}).get("every") else ""
    share = by_lambda or f"effective sample size {format.percent(weights['target_ess'])}"
    return f"{weights['preset'].replace('_', ' ')}, {share}{online}"


def option_text(path: str, option: str) -> str:
    """Return an option of a setting in words; an option without words of its own stands for itself."""
    return OPTIONS.get(path, SWITCH).get(option, option.replace("_", " "))


def act_title(kind: str) -> str:
    """Return what the log of acts calls a kind of act."""
    return KINDS.get(kind, kind)
