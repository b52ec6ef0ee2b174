import torch

from worker.models.padding import ON_CPU, group_rows, token_budget


def test_rows_of_like_width_stand_together_and_padded_stay_in_the_budget():
    widths = [3, 10, 4, 9, 1, 4]
    groups = group_rows(widths, 12)
    assert groups == [[1], [3], [2, 5, 0], [4]]
    assert all(len(group) * max(widths[row] for row in group) <= 12 for group in groups)


def test_a_row_that_is_wider_than_the_budget_stands_alone():
    assert group_rows([5, 50, 5], 10) == [[1], [0, 2]]


def test_rows_of_one_width_only_where_nothing_may_be_padded():
    assert group_rows([2, 3, 3, 2, 2], 100, alike=True) == [[1, 2], [0, 3, 4]]
    assert group_rows([], 100) == []


def test_a_processor_takes_what_stays_in_its_cache():
    assert token_budget(torch.device("cpu")) == ON_CPU
    assert token_budget(torch.device("cpu"), on_cpu=7) == 7
    assert token_budget(torch.device("cuda")) > ON_CPU
