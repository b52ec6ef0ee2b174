from tests.worker.workshop import make_recipe
from worker.stages.held_out import choose_prompts, choose_sets, divide, find_best, look_at


def settings(**changes):
    return make_recipe(evaluation={"share": 0.5, **changes}).evaluation


def ids(examples):
    return [example.example_id for example in examples]


def test_prompts_are_different_seeded_and_at_most_as_many_as_asked(batches):
    examples = [example for batch in batches for example in batch]
    chosen = choose_prompts([*examples, *examples], 6, 0)
    assert len({example.turns for example in chosen}) == 6
    assert chosen == choose_prompts([*examples, *examples], 6, 0) != choose_prompts([*examples, *examples], 6, 1)
    assert len(choose_prompts(examples[:3], 6, 0)) == 3


def test_each_seed_moves_its_own_choice_and_no_other(workshop, prepare_rows):
    path = workshop.dataset(workshop.examples())

    def chosen(**changes):
        recipe = make_recipe(evaluation={"share": 0.5, **changes})
        prepared = prepare_rows(path, recipe)
        sets = choose_sets(prepared.held_out, recipe.evaluation)
        return [ids(part) for part in (prepared.train, divide(prepared.held_out, recipe.evaluation)[1], sets["test"].prompts)]

    train, test, prompts = chosen()
    assert chosen(draw_seed=7) == [train, test, prompts]
    assert chosen(prompt_seed=7)[:2] == [train, test]
    assert chosen(prompt_seed=7)[2] != prompts
    assert chosen(seed=7)[0] != train
    assert chosen(seed=7)[1] != test
    assert chosen(seed=0, prompt_seed=0) == [train, test, prompts]


def test_no_prompt_is_in_both_sets_and_copies_of_one_stay_together(workshop, prepare_rows):
    rows = workshop.examples(16)
    twins = [{**row, "example_id": 16 + k, "line": 17 + k} for k, row in enumerate(rows)]
    prepared = prepare_rows(workshop.dataset([*rows, *twins], "twins"), make_recipe(evaluation={"share": 0.6}))
    for seed in range(5):
        validation, test = divide(prepared.held_out, settings(seed=seed))
        assert {example.turns for example in validation}.isdisjoint({example.turns for example in test})
        assert sorted(ids([*validation, *test])) == sorted(ids(prepared.held_out))
        assert abs(len(test) - len(validation)) <= 2


def test_the_recipe_says_how_many_are_tested_and_how_many_answer(batches):
    held_out = [example for batch in batches for example in batch]
    sets = choose_sets(held_out, settings(test_share=0.25, num_prompts=3, num_test_prompts=2))
    num_test = len(sets["test"].examples)
    assert num_test == len(held_out) - len(sets["validation"].examples) == -(-len(held_out) // 4)
    assert [len(sets[name].prompts) for name in ("validation", "test")] == [3, 2]
    untested = choose_sets(held_out, settings(test_share=0))
    assert untested["test"].is_empty
    assert ids(untested["validation"].examples) == ids(held_out)


def test_where_nothing_is_held_out_both_sets_are_empty():
    assert [one.is_empty for one in choose_sets([], settings()).values()] == [True, True]


def test_looked_at_are_the_best_response_and_those_with_a_preference(batches):
    example = batches[0][0]
    assert find_best(example).preference == 1
    assert look_at(example) == list(example.responses)
