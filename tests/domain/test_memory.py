"""The memory formula, against counts worked out by hand and the published sizes of real models."""

from typing import Any

import pytest

from app.domain.memory import Load, fit_window, plan_memory
from app.domain.recipe import Recipe

# Qwen2.5: their published configurations and parameter counts
SMALL = {
    "num_parameters": 494_032_768, "hidden_size": 896, "num_layers": 24, "intermediate_size": 4864, "num_heads": 14,
    "num_kv_heads": 2, "vocab_size": 151_936, "tied_embeddings": True,
}  # fmt: skip
LARGE = {
    "num_parameters": 32_763_876_352, "hidden_size": 5120, "num_layers": 64, "intermediate_size": 27_648, "num_heads": 40,
    "num_kv_heads": 8, "vocab_size": 152_064, "tied_embeddings": False,
}  # fmt: skip
LOAD = Load(num_tokens=4096, num_targets=1024)


def recipe(policy: dict[str, Any] | None = None, **training: Any) -> Recipe:
    data = {"dataset": "d", "policy": {"model": "m", **(policy or {})}, "weights": {"lambda": 1.0}, "training": training}
    return Recipe.model_validate(data)


def parts(
    facts: dict[str, Any], policy: dict[str, Any] | None = None, load: Load | None = LOAD, **training: Any
) -> dict[str, int]:
    plan = plan_memory(recipe(policy, **training), facts, load)
    assert plan is not None
    assert plan.predicted_bytes == sum(plan.parts.values())
    return plan.parts


def test_full_float32_training_holds_sixteen_bytes_a_parameter() -> None:
    found = parts(SMALL)
    assert found["weights"] + found["gradients"] + found["optimizer"] == 16 * SMALL["num_parameters"]


def test_bfloat16_keeps_float32_masters_beside_the_weights() -> None:
    found = parts(SMALL, {"dtype": "bfloat16"})
    assert found["weights"] == 2 * SMALL["num_parameters"]
    assert found["optimizer"] == 12 * SMALL["num_parameters"]


def test_lora_trains_what_peft_counts_for_this_model() -> None:
    plan = plan_memory(recipe({"adaptation": "lora"}), SMALL, LOAD)
    assert plan is not None
    assert plan.num_trained == 8_798_208  # print_trainable_parameters() for rank 16 on all linear layers
    assert plan.parts["optimizer"] == 8 * 8_798_208


def test_32_billion_parameters_fit_one_80_gb_device_in_4_bits_only() -> None:
    lora = {"adaptation": "lora", "dtype": "bfloat16", "gradient_checkpointing": True}
    whole, quantized = (sum(parts(LARGE, {**lora, "quantization": kind}).values()) for kind in ("none", "nf4"))
    assert whole > 65e9
    assert quantized < 35e9


def test_sharding_divides_weights_gradients_and_optimizer() -> None:
    policy = {"dtype": "bfloat16", "gradient_checkpointing": True}
    one = parts(LARGE, policy, num_processes=8)
    split = parts(LARGE, policy, num_processes=8, sharding="full")
    assert split["optimizer"] == pytest.approx(one["optimizer"] / 8, abs=1)
    assert one["weights"] / 8 < split["weights"] < one["weights"] / 4  # and the layer that is gathered
    assert sum(split.values()) < 100e9 < sum(one.values())


def test_gradient_checkpointing_keeps_each_layers_input_only() -> None:
    kept = parts(SMALL)["activations"]
    again = parts(SMALL, {"gradient_checkpointing": True})["activations"]
    assert again < kept / 5


def test_where_activations_are_few_the_update_is_the_peak() -> None:
    found = parts(LARGE, {"dtype": "bfloat16"}, Load(64, 16))
    assert (found["activations"], found["head"]) == (0, 0)
    assert found["gradients"] == 4 * LARGE["num_parameters"]


def test_without_a_known_load_every_row_is_as_long_as_allowed() -> None:
    plan = plan_memory(recipe(batch_size=8, micro_batch_size=2), SMALL)
    assert plan is not None
    assert plan.num_tokens == 2 * 2 * (512 + 512)
    shared = plan_memory(recipe(batch_size=8, num_processes=8), SMALL)
    assert shared is not None
    assert shared.num_tokens == 2 * (512 + 512)


def test_rows_are_no_longer_than_the_models_context_window() -> None:
    plan = plan_memory(recipe(batch_size=8, micro_batch_size=2), {**SMALL, "context_length": 128})
    assert plan is not None
    assert plan.num_tokens == 2 * 2 * 128
    wide = plan_memory(recipe(batch_size=8, micro_batch_size=2), {**SMALL, "context_length": 32_768})
    assert wide is not None
    assert wide.num_tokens == 2 * 2 * (512 + 512)


@pytest.mark.parametrize("missing", ["hidden_size", "num_parameters", "vocab_size"])
def test_a_model_of_unknown_shape_has_no_plan(missing: str) -> None:
    assert plan_memory(recipe(), {**SMALL, missing: None}) is None
    assert plan_memory(recipe(), {}) is None


@pytest.mark.parametrize(
    ("limits", "window", "fitted"),
    [
        ((512, 512), None, (512, 512)),
        ((512, 512), 4096, (512, 512)),
        ((512, 512), 512, (256, 256)),
        ((64, 512), 512, (64, 448)),
        ((512, 64), 512, (448, 64)),
    ],
)
def test_limits_shrink_to_the_window_and_the_response_keeps_half_of_it(
    limits: tuple[int, int], window: int | None, fitted: tuple[int, int]
) -> None:
    assert fit_window(*limits, window) == fitted
