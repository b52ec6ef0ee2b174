"""Where data come from, by hand: log π_ref per token of the data beside the reference's own answers."""

import math

import pytest
import torch

from tests.worker.kept_scoring import draw_examples
from worker.stages.scoring.origins import compare_held_out, compare_origins


def test_the_difference_is_taken_prompt_by_prompt_and_per_token():
    found = compare_origins(
        torch.tensor([-10.0, -6.0, -4.0, -2.0, -9.0, -4.0]),  # two prompts, each with data before draws
        torch.tensor([5, 3, 4, 2, 3, 2]),
        torch.tensor([0, 1, -1, -2, 0, -1]),
        torch.tensor([0, 0, 0, 0, 1, 1]),
    )
    gaps = [-2.0 + 1.0, -3.0 + 2.0]
    assert (found.data, found.draws) == (pytest.approx(-2.5), pytest.approx(-1.5))
    assert found.gap == pytest.approx(sum(gaps) / 2)
    assert found.error == pytest.approx(0.0)


def test_of_held_out_prompts_only_those_that_were_answered_count():
    examples = draw_examples(4, labelled=True)
    lengths = [[len(response.ids) for response in example.responses] for example in examples]
    sums = [[-2.0 * length for length in of_example] for of_example in lengths]
    answers = [[-1.0, -1.0], [-0.5, -1.5, -1.0]]
    found = compare_held_out(examples[1:3], answers, examples, sums)
    assert found is not None
    assert (found.data, found.draws, found.gap) == (pytest.approx(-2.0), pytest.approx(-1.0), pytest.approx(-1.0))
    assert found.error is not None
    assert math.isfinite(found.error)
    assert compare_held_out(examples[:1], answers[:1], examples, sums) is None  # one prompt has no spread
