from app.domain.comparing.order import Sort, order_prompts, page_of

GAINS = {"r": {0: 1.0, 1: -3.0, 2: 0.5, 4: -0.1}, "q": {0: 1.0, 1: 2.0, 2: -9.0, 4: -2.0}}


def test_a_judge_orders_the_prompts_it_has_judged():
    assert order_prompts(5, GAINS, "r", Sort.LOSSES) == [1, 4, 2, 0]
    assert order_prompts(5, GAINS, "r", Sort.GAINS) == [0, 2, 4, 1]
    assert order_prompts(5, GAINS, "r", Sort.PROMPTS) == [0, 1, 2, 3, 4]
    assert order_prompts(5, {}, "r", Sort.LOSSES) == [0, 1, 2, 3, 4]


def test_disagreement_shows_prompts_where_judges_contradict_each_other():
    assert order_prompts(5, GAINS, "r", Sort.DISAGREEMENT) == [2, 1]
    assert order_prompts(5, {"r": GAINS["r"]}, "r", Sort.DISAGREEMENT) == []


def test_pages_follow_one_another():
    order = [1, 4, 2, 0]
    assert page_of(order, None, None, 2) == ([1, 4], 4)
    assert page_of(order, None, 4, 2) == ([2, 0], None)
    assert page_of(order, {0, 4}, None, 1) == ([4], 4)
    assert page_of(order, {0, 4}, 4, 1) == ([0], None)
    assert page_of(order, set(), None, 2) == ([], None)
