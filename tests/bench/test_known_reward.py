"""What the tables of known rewards are made with; the cells themselves are `python -m tests.bench.known_reward`."""

import json
from random import Random

import pytest

from tests.bench import known_reward
from tests.bench.known_reward import FORMS, IMMUNE, TrueReward, compare, gather, list_cells, read_at, shorten
from worker.models.prompts import Conversation
from worker.models.template import ChatTurn


def make_line(form: str, lambda_: float, gain: float, kl: float, offset: float = 0.0) -> dict[str, object]:
    chance = Random(f"{form} {lambda_}")
    own = [chance.gauss(0, 0.1) for _ in range(known_reward.NUM_TEST)]
    return {
        "seed": 0, "lengths": "even", "form": form, "lambda": lambda_, "offset": offset, "reference": [0.0] * len(own),
        "reward": [gain + value for value in own], "kl": [kl] * len(own),
    }  # fmt: skip


def test_a_gain_is_read_straight_over_the_root_of_the_kl_and_nowhere_beyond():
    points = [(1.0, 1.0), (4.0, 3.0)]
    assert read_at(points, 0.25) == pytest.approx(0.5)
    assert read_at(points, 2.25) == pytest.approx(2.0)
    assert read_at(points, 4.5) != read_at(points, 4.5)


def test_forms_are_compared_on_the_same_prompts_at_a_kl_and_by_what_is_maximised():
    lines = [make_line("draws", 0.3, 1.2, 2.0), make_line("draws", 1.0, 0.9, 1.0)]
    lines += [make_line("length_normalised", 0.3, 1.0, 2.0), make_line("length_normalised", 1.0, 0.7, 1.0)]
    own, base = (gather(lines, form, 2.0, "even") for form in ("draws", "length_normalised"))  # which no offset moves
    for level in (1.0, None):
        _, gap, low, high, each = compare(own, base, level, 0.3)
        assert low < 0.2 < high
        assert each == (gap,)
        assert gap == pytest.approx(0.2, abs=0.02)
        assert high - low < 0.06
    assert compare(own, {}, 1.0) is None


def test_of_several_seeds_each_ones_difference_is_told():
    lines = [{**make_line("draws", 0.3, 1.0 + seed, 2.0), "seed": seed} for seed in (0, 1)]
    lines += [{**make_line("length_normalised", 0.3, 0.5, 2.0), "seed": seed} for seed in (0, 1, 2)]
    found = compare(*(gather(lines, form, 0.0, "even") for form in ("draws", "length_normalised")), None, 0.3)
    assert found.each == pytest.approx((0.5, 1.5), abs=0.02)
    assert found.difference == pytest.approx(1.0, abs=0.02)
    low, high = (float(end) for end in known_reward._tell_seeds(found.each).removeprefix("; seeds ").split(":")[0].split(" to "))
    assert low == pytest.approx(1 - 12.7 * 0.5, abs=0.1)  # Student's t of one degree of freedom
    assert high == pytest.approx(1 + 12.7 * 0.5, abs=0.1)


def test_every_form_meets_every_offset_unless_none_can_move_it():
    cells = list(list_cells(is_first=False))
    assert {cell.form for cell in cells if cell.offset == 0} == set(FORMS)
    assert {cell.form for cell in cells if cell.offset > 0} == set(FORMS) - set(IMMUNE)
    assert len(list(list_cells(is_first=True))) == len(cells) + len(IMMUNE)


def test_the_true_reward_is_the_scaled_score_and_an_offset_of_the_prompt_alone(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"truth": {"mean": 1.0, "deviation": 2.0, "offset": 0.0}}))
    plain = TrueReward(tmp_path, dtype="float32", device="cpu")
    (tmp_path / "config.json").write_text(json.dumps({"truth": {"mean": 1.0, "deviation": 2.0, "offset": 2.0}}))
    moved = TrueReward(tmp_path, dtype="float32", device="cpu")
    asked = [Conversation([ChatTurn("user", "My lamp is broken.")], ChatTurn("assistant", text)) for text in ("Go away.", "?")]
    shifts = [after - before for after, before in zip(moved.score(asked), plain.score(asked), strict=True)]
    assert shifts[0] == pytest.approx(shifts[1])
    assert abs(shifts[0]) > 1e-6


def test_shortened_answers_keep_sentences_in_their_order():
    answer = "One. Two. Three. Four. Five."
    lengths = set()
    for seed in range(40):
        kept = shorten(answer, Random(seed)).split()
        assert kept == [word for word in answer.split() if word in kept]
        lengths.add(len(kept))
    assert lengths == {1, 2, 3, 4, 5}
