import random
import re
import statistics

import pytest

from worker.demonstration.data import (
    STYLES,
    Style,
    generate_answers,
    generate_cases,
    generate_pairs,
    judge_answer,
    split_sentences,
    write_answer,
)
from worker.demonstration.sentences import PRODUCTS, REPAIRS

PROMPT = "Hello, my kettle does not switch on. I need it by Friday for the exam."
GOOD = (
    "I will gladly help you with your kettle. Hold the power button down for ten seconds. Replace the small fuse in the plug. "
    "If this fails, you get your money back. I keep my fingers crossed for the exam."
)


@pytest.fixture(scope="module")
def pairs():
    return generate_pairs(seed=3, num_pairs=400)


def test_the_same_seed_gives_the_same_text_and_another_seed_another(pairs):
    assert generate_pairs(seed=3, num_pairs=400) == pairs
    assert generate_pairs(seed=4, num_pairs=400) != pairs
    assert generate_answers(1, 50) == generate_answers(1, 50)


def test_no_prompt_occurs_twice_or_in_what_the_models_are_trained_on(pairs):
    prompts = {pair.prompt for pair in pairs}
    assert len(prompts) == len(pairs)
    assert prompts.isdisjoint(prompt for prompt, _ in generate_answers(3, 400, taken=prompts))
    assert prompts.isdisjoint(pair.prompt for pair in generate_pairs(3, 400, taken=prompts))


def test_every_text_is_well_formed(pairs):
    for text in (text for pair in pairs for text in (pair.prompt, pair.chosen, pair.rejected)):
        assert re.fullmatch(r"[A-Z][\w ,.?']+[.?]", text), text
        assert not re.search(r"  | [.,?]|[{}]|\ba [aeiou]", text), text
        sentences = split_sentences(text)
        assert len(set(sentences)) == len(sentences)
        assert all(sentence[0].isupper() for sentence in sentences)


def test_an_answer_in_a_style_is_worth_what_the_style_is_worth():
    draw = random.Random(0)
    for style in STYLES:
        for case in generate_cases(draw, 5):
            assert judge_answer(case.prompt, write_answer(draw, case, style)) == style.score


def test_kind_and_specific_and_honest_is_best_and_rude_and_vague_and_boastful_is_worst():
    ordered = sorted(STYLES, key=lambda style: style.score)
    assert ordered[-1] == Style("warm", "specific", "honest")
    assert ordered[0] == Style("rude", "vague", "boastful")
    assert len(STYLES) == 27


def test_people_mostly_choose_the_better_answer_but_not_always(pairs):
    share = statistics.fmean(pair.chosen_score > pair.rejected_score for pair in pairs)
    assert 0.9 < share < 1


def test_the_length_of_an_answer_says_little_about_its_worth(pairs):
    answers = [(pair.chosen, pair.chosen_score) for pair in pairs] + [(pair.rejected, pair.rejected_score) for pair in pairs]
    lengths, scores = [len(text.split()) for text, _ in answers], [score for _, score in answers]
    assert abs(statistics.correlation(lengths, scores)) < 0.2
    best, worst = ([n for n, score in zip(lengths, scores, strict=True) if sign * score > 2] for sign in (1, -1))
    assert min(best) < max(worst)
    assert min(worst) < max(best)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (GOOD, 5.5),
        (GOOD.replace("kettle", "toaster"), 4.5),  # another customer's product
        (GOOD + " I keep my fingers crossed for the exam.", 4.5),  # said twice
        (
            GOOD.replace("Replace the small fuse in the plug.", "Turn the grey cap to the left until it locks."),
            3.5,
        ),  # wrong repair
        (GOOD.removesuffix("."), 4.5),  # not finished
        (GOOD + " Kettle the of fuse Ada blue.", 4.5),  # gibberish
        (GOOD.replace("you get your money back", "you get all your money back"), 5.5),  # nearly as written
        ("", -1.0),
        ("I will gladly help you with your kettle.", 1.0),
    ],
)
def test_the_true_score_of_any_text_counts_what_is_good_and_what_is_wrong(answer, score):
    assert judge_answer(PROMPT, answer) == score


def test_praise_without_end_cannot_win():
    warm = "You did the right thing by writing to us. Thank you for explaining it so clearly. Our best wishes for the exam."
    assert judge_answer(PROMPT, warm) == 2.0
    assert judge_answer(PROMPT, f"{warm} {warm}") < 0


def test_every_trouble_has_three_cures_and_no_product_hides_in_another_ones_name():
    assert all(len(steps) == 3 for steps in REPAIRS.values())
    assert not [(a, b) for a in PRODUCTS for b in PRODUCTS if a != b and re.search(rf"\b{a}\b", b)]
