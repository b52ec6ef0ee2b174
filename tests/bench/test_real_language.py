"""What the table on real language stands on; the cells themselves are `python -m tests.bench.real_language`."""

import json
from types import SimpleNamespace

from app.domain.recipe import Method, parse_recipe
from tests.bench import real_language
from tests.bench.real_language import average, find_default, list_cells, opening_of, write_recipe


def test_no_conversation_is_in_two_of_the_parts(shared, tmp_path, monkeypatch):
    def tokenize(text: str, **_: object) -> dict[str, list[str]]:
        return {"input_ids": text.split()}

    monkeypatch.setattr(real_language, "AutoTokenizer", SimpleNamespace(from_pretrained=lambda folder: tokenize))
    for name in real_language.LAYERS:
        (tmp_path / name).mkdir()  # as if reward model and judge were trained
    real_language.make_world(tmp_path, shared, tmp_path)
    lines = {name: (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines() for name in ("runs", "reward", "judge")}
    openings = {name: {opening_of(line) for line in own} for name, own in lines.items()}
    assert len(lines["runs"]) == real_language.NUM_RUNS
    assert not openings["runs"] & openings["reward"]
    assert not openings["runs"] & openings["judge"]
    assert not openings["reward"] & openings["judge"]
    assert all(json.loads(line)["chosen"] != json.loads(line)["rejected"] for line in lines["runs"])


def test_every_cell_is_a_valid_recipe_and_all_share_what_is_held_out():
    recipes = [parse_recipe(write_recipe(parts, 3, 1e-3, 5)) for _, parts in list_cells()]
    assert len({recipe.evaluation.model_dump_json() for recipe in recipes}) == 1
    assert len({recipe.method for recipe in recipes}) == 3
    assert {(recipe.method is Method.DPO, recipe.training.learning_rate) for recipe in recipes} == {(True, 2e-4), (False, 1e-3)}


def test_a_cell_is_compared_with_the_default_at_its_own_temperature_else_at_the_first():
    cells = {name: {"cell": name} for name, _ in list_cells()}
    assert find_default(cells, "paper / 1") == {"cell": "length_normalised / 1"}
    assert find_default(cells, "DPO / β 0.3") == {"cell": "length_normalised / 0.3"}
    assert find_default({}, "paper / 1") is None


def test_the_seeds_of_a_cell_count_by_their_mean_at_each_prompt():
    def line(seed: int, judge: float, **more: float) -> dict[str, object]:
        answers = [{"judge": judge, "reward": 2 * judge, "length": 4 + seed, "text": "x"}, {"judge": 0, "reward": 1, "length": 3}]
        return {"cell": "paper / 1", "seed": seed, "kl": [judge, 1.0], "policy": answers, "reference": answers, **more}

    both = average([line(0, 1.0, **{"weight/ess_share": 0.5}), line(1, 3.0)])
    assert (both["num_seeds"], both["kl"]) == (2, [2.0, 1.0])
    assert both["policy"] == {"judge": [2.0, 0.0], "reward": [4.0, 1.0], "length": [4.5, 3.0]}
    assert "weight/ess_share" not in both
