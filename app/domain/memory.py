"""How much memory training will take on one device, by formula: told before launch, checked by one step, kept with the run.

Bytes, with b per number of the policy's dtype, P weights of which S are trained, n tokens in one forward pass, L layers:
    weights      b·P                        nf4: 0.516·P of the blocks (4 bits, and 8-bit scales of 64-value groups)
    gradients    b·S                        4·S while the optimizer steps, as it works on float32
    optimizer    8·S (AdamW's two moments) + 4·S (float32 masters of bfloat16 weights)
    activations  n·(L + 1)·layer            what the backward pass keeps (below); + 1: the layer it is working on
                 n·(L·b·h + layer)          with gradient checkpointing: each layer's input, and one layer made again
    head         256·V·(2b + 8) logits of one chunk, 2·b·h per response token, 4·V·h for a trained head's gradient
    layer        2h(4 + 2b) two norms in float32, 5·b·q attention, 4·b·i the gated network, LoRA: float32 copies of its inputs
Sharding over N devices divides the first three by N and adds the layer that is gathered, with its gradient. The peak is the
larger of two moments, backward pass and update; `parts` are those of that moment and sum up to it.

Sources of the terms: ZeRO (Rajbhandari et al., arXiv 1910.02054, section 3) for weights, gradients and AdamW; Korthikanti et al.
(arXiv 2205.05198, section 4) for counting activations, here for RMSNorm, rotary positions, fused attention and SwiGLU; Dettmers
et al. (arXiv 2305.14314, section 3) for nf4 with double quantisation. Holds for dense decoders of 0.1 to 32 B within a factor
of 1.5; of a mixture of experts it counts one expert's activations.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.domain.recipe import Method, Recipe

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # 4 bits, a byte per 64 values, a float32 per 256 of these bytes
CHUNK = 256  # positions whose logits exist at once
FACTOR = 1.5  # the formula is meant to hold within it
SHAPE = ("num_parameters", "hidden_size", "num_layers", "intermediate_size", "num_heads", "vocab_size")


@dataclass(frozen=True)
class MemoryPlan:
    """The peak of training on each device, in bytes; `parts` (weights, gradients, optimizer, activations, head) sum up to it."""

    parts: dict[str, int]
    num_devices: int
    num_trained: int  # parameters that are trained, in all
    num_tokens: int  # of the longest forward pass on one device

    @property
    def predicted_bytes(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Load:
    """Tokens of the longest forward pass on one device, and how many of them are predicted."""

    num_tokens: int
    num_targets: int


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder's dimensions."""

    num_parameters: int
    hidden: int
    num_layers: int
    intermediate: int
    queries: int  # heads · size of a head
    keys: int
    vocab: int
    tied: bool

    @property
    def table(self) -> int:
        """Numbers of the embedding, or of the head."""
        return self.vocab * self.hidden

    @property
    def block(self) -> int:
        """Parameters of one layer."""
        return max(0, self.num_parameters - self.table * (1 if self.tied else 2)) // self.num_layers

    @property
    def num_wide(self) -> int:
        """Matrices between hidden and intermediate size: 3 with a gate, 2 without."""
        attention = 2 * self.hidden * (self.queries + self.keys)
        return min(3, max(2, round((self.block - attention) / (self.hidden * self.intermediate))))


def read_shape(facts: Mapping[str, Any]) -> ModelShape | None:
    """Return the dimensions among a model's facts; None when one is missing, as of a hub model that was not looked into."""
    if not all(type(facts.get(name)) is int and facts[name] > 0 for name in SHAPE):
        return None
    hidden, num_heads = facts["hidden_size"], facts["num_heads"]
    size = facts.get("head_size") or hidden // num_heads
    return ModelShape(
        facts["num_parameters"], hidden, facts["num_layers"], facts["intermediate_size"], num_heads * size,
        (facts.get("num_kv_heads") or num_heads) * size, facts["vocab_size"], bool(facts.get("tied_embeddings")),
    )  # fmt: skip


def plan_memory(recipe: Recipe, facts: Mapping[str, Any], load: Load | None = None) -> MemoryPlan | None:
    """Return the plan of a recipe for a model with these facts; None when they don't tell its shape.

    `load` is what the batches really hold; without it, every prompt and response is as long as the recipe and the model's
    context window allow.
    """
    shape = read_shape(facts)
    if shape is None:
        return None
    load = load or worst_load(recipe, facts.get("context_length"))
    num_trained = _count_trained(recipe, shape)
    parts = _at_backward(recipe, shape, num_trained, load)
    update = {**parts, "gradients": _shared(recipe, 4 * num_trained), "activations": 0, "head": 0}
    peak = max(parts, update, key=lambda moment: sum(moment.values()))
    return MemoryPlan(
        {name: math.ceil(value) for name, value in peak.items()}, recipe.training.num_processes, num_trained, load.num_tokens
    )


def worst_load(recipe: Recipe, window: int | None = None) -> Load:
    """Return every prompt and response as long as allowed, two responses a prompt (one, when only the chosen enter; online as
    many as are drawn), and the draws of the reference where they enter.

    `window`: what the model reads at most, in tokens; the run cuts to it as well.
    """
    training = recipe.training
    is_online = recipe.online.every is not None
    longest = recipe.online.max_new_tokens if is_online else recipe.tokens.max_response
    max_prompt, max_response = fit_window(recipe.tokens.max_prompt, longest, window)
    share = math.ceil(training.batch_size / training.num_processes)
    num = recipe.online.num_responses if is_online else count_entering(recipe)
    rows = min(training.micro_batch_size or share, share) * num
    return Load(rows * (max_prompt + max_response), rows * max_response)


def count_entering(recipe: Recipe) -> int:
    """Return how many responses a prompt brings into the loss, of data with two."""
    return {"chosen": 1, "both": 2, "draws": recipe.draws.num_draws, "all": 2 + recipe.draws.num_draws}[recipe.weights.responses]


def _at_backward(recipe: Recipe, shape: ModelShape, num_trained: int, load: Load) -> dict[str, float]:
    width = _width(recipe)
    is_lora, is_sharded = recipe.policy.adaptation == "lora", recipe.training.sharding == "full"
    adapter = num_trained if is_lora else 0
    blocks = shape.block * shape.num_layers
    per_block = NF4_BYTES if recipe.policy.quantization == "nf4" else width
    weights = per_block * blocks + width * (shape.num_parameters - blocks) + 4 * adapter
    gathered = (shape.block + shape.table) * width if is_sharded else 0
    return {
        "weights": _shared(recipe, weights) + gathered + (shape.hidden * shape.intermediate * width if per_block < width else 0),
        "gradients": _shared(recipe, (4 if is_lora else width) * num_trained) + (0 if is_lora else gathered),
        "optimizer": _shared(recipe, (8 if is_lora or width == 4 else 12) * num_trained),
        "activations": _activations(recipe, shape, load),
        "head": _head(recipe, shape, load),
    }


def _activations(recipe: Recipe, shape: ModelShape, load: Load) -> float:
    width, hidden = _width(recipe), shape.hidden
    layer = 2 * hidden * (4 + 2 * width) + 5 * shape.queries * width + 4 * shape.intermediate * width
    if recipe.policy.adaptation == "lora" and width < 4:  # each adapted matrix keeps its input as float32
        layer += 4 * (5 * hidden + shape.queries + shape.intermediate)
    ends = hidden * (4 + 3 * width)  # embedding and last norm
    kept = shape.num_layers * hidden * width if recipe.policy.gradient_checkpointing else shape.num_layers * layer
    return load.num_tokens * (kept + layer + ends)


def _head(recipe: Recipe, shape: ModelShape, load: Load) -> float:
    if recipe.method is Method.REWARD_MODEL:
        return 0.0
    width = _width(recipe)
    chunk = min(CHUNK, load.num_targets) * shape.vocab * (2 * width + 8)
    rows = 2 * load.num_targets * shape.hidden * width
    is_extra = recipe.policy.adaptation == "full" and (shape.tied or width < 4)  # else it is among the gradients
    return chunk + rows + (4 * shape.table if is_extra else 0)


def _count_trained(recipe: Recipe, shape: ModelShape) -> int:
    if recipe.policy.adaptation == "full":
        return shape.num_parameters
    attention = 4 * shape.hidden + 2 * shape.queries + 2 * shape.keys  # inputs and outputs of q, k, v, o
    wide = shape.num_wide * (shape.hidden + shape.intermediate)
    return recipe.policy.lora.rank * shape.num_layers * (attention + wide)


def _shared(recipe: Recipe, value: float) -> float:
    return value / recipe.training.num_processes if recipe.training.sharding == "full" else value


def _width(recipe: Recipe) -> int:
    return 2 if recipe.policy.dtype == "bfloat16" else 4


def fit_window(max_prompt: int, max_response: int, window: int | None) -> tuple[int, int]:
    """Return the limits of prompt and response, in tokens, shrunk until both fit the context window; None: it has no limit.

    The response keeps at least half of the window. The prompt's limit is 0 or less where the window leaves no room for one.
    """
    if window is None or max_prompt + max(max_response, 1) <= window:
        return max_prompt, max_response
    max_response = min(max_response, max(window - max_prompt, window // 2))
    return min(max_prompt, window - max_response), max_response
