from types import SimpleNamespace

import pytest
import torch

from app.domain.errors import StudioError
from worker.models import parallel
from worker.stages.pipeline import run_course


@pytest.fixture
def slow_numbers():
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


def test_numbers_too_small_for_the_processor_to_be_quick_with_are_zeros_in_a_run(slow_numbers, monkeypatch):
    tiny = torch.tensor([1e-30, 2.0])
    assert (tiny * 1e-10).tolist()[0] > 0
    monkeypatch.setattr(parallel.torch.cuda, "is_available", lambda: False)
    with pytest.raises(StudioError):
        run_course(SimpleNamespace(device="cuda", num_threads=1), None, None)
    assert (tiny * 1e-10).tolist()[0] == 0
