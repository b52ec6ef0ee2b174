import errno

import torch

from app.domain.errors import ModelInvalid, RecipeInvalid
from worker.running.failures import Diverged, explain


def test_gpu_memory_names_the_settings_to_change_and_is_not_tried_again():
    found = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert found.reason == "The GPU ran out of memory."
    assert "micro_batch_size" in found.remedy
    assert "gradient_checkpointing" in found.remedy
    assert found.retry is False


def test_memory_of_the_machine_likewise():
    for error in (
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    ):
        assert explain(error).reason == "The machine ran out of memory."
        assert explain(error).retry is False


def test_a_limit_of_the_settings_is_named(monkeypatch):
    monkeypatch.setattr("worker.running.failures.find_data_limit", lambda: 8 * 2**30)
    found = explain(MemoryError())
    assert (
        found.reason
        == "The run needs more than the 8.0 GiB of memory that STUDIO_RUNNER_MEMORY_BYTES allows each of its processes."
    )
    assert not found.retry


def test_a_full_disk_says_that_the_run_can_be_resumed():
    found = explain(OSError(errno.ENOSPC, "No space left on device", "/data/step-000100"))
    assert found.reason == "The disk is full while writing /data/step-000100."
    assert "resume" in found.remedy


def test_the_studios_own_errors_are_their_sentence():
    assert explain(ModelInvalid("The model is not there.")).reason == "The model is not there."


def test_a_fault_of_the_recipe_names_the_field_to_change_and_is_not_tried_again():
    found = explain(RecipeInvalid.at("policy.lora.target_modules", "LoRA can't be put on these modules."))
    assert found.reason == "LoRA can't be put on these modules."
    assert "policy.lora.target_modules" in found.remedy
    assert found.retry is False


def test_divergence_is_not_tried_again():
    assert explain(Diverged("The loss was not finite.")).retry is False


def test_anything_else_is_named_and_tried_again():
    found = explain(KeyError("weight"))
    assert found.reason == "Unexpected error, KeyError: 'weight'."
    assert found.retry is True


def test_an_error_of_the_gpu_is_a_sentence_of_its_own():
    assert explain(RuntimeError("CUDA error: unspecified launch failure")).reason.endswith("unspecified launch failure.")


def test_a_remedy_is_told_once():
    error = RecipeInvalid.at("reward.accept_inverted", "Swap the columns, or set reward.accept_inverted to launch anyway.")
    assert explain(error).remedy == ""
