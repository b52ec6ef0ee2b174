import random

import pytest

from worker.models.template import ChatTurn
from worker.stages.conversations import find_conversations, find_opening

LONG = "First whisk two eggs with a spoon of sugar until the sugar is gone, then add flour until it no longer flows."


def user(*texts: str) -> tuple[ChatTurn, ...]:
    """A conversation that begins with the user."""
    return tuple(ChatTurn(("user", "assistant")[k % 2], text) for k, text in enumerate(texts))


def group(prompts: list[tuple[ChatTurn, ...]], answers: list[list[str]] | None = None) -> list[int]:
    """The examples' groups, numbered in the order in which they come first."""
    found = find_conversations(prompts, list(map(find_opening, prompts)), answers or [[] for _ in prompts])
    order = list(dict.fromkeys(found))
    return [order.index(one) for one in found]


def test_prompts_that_open_alike_belong_together_whatever_their_case_and_spaces() -> None:
    system = (ChatTurn("system", "Be kind."), *user("how  do I\nbake a CAKE?"))
    longer = user("How do I bake a cake?", "Well.", "And?")
    assert group([user("How do I bake a cake?"), user("Tell me a joke."), longer, system]) == [0, 1, 0, 0]


def test_a_prompt_without_a_user_turn_opens_with_all_of_it() -> None:
    plain = (ChatTurn("system", "One."), ChatTurn("assistant", "Two."))
    assert group([plain, plain, plain[:1]]) == [0, 0, 1]


@pytest.mark.parametrize(
    ("answer", "told", "together"),
    [
        (LONG, f"A friend wrote: {LONG.upper()} Is that right?", True),
        (LONG, f"A friend wrote: {LONG[:80]}", True),
        (LONG, f"A friend wrote: {LONG[1:79]}", False),
        (LONG[:50], f"“{LONG[:50]}”", True),
        (LONG[:50], f"“{LONG[:49]}”", False),
        (LONG[:20], f"is it {LONG[:20]}?", True),
        (LONG[:19], f"is it {LONG[:19]}?", False),
        ("ünïcödé 𝒳𝒴𝒵 ünïcödé 𝒳𝒴𝒵", "so: ünïcödé 𝒳𝒴𝒵 ünïcödé 𝒳𝒴𝒵, yes", True),
        ("Yes.", "I said: Yes.", False),
        ("", "What now?", False),
    ],
)
def test_a_prompt_that_holds_an_answer_belongs_to_it(answer: str, told: str, together: bool) -> None:
    assert group([user("How?"), user(told)], [["", answer], ["No."]]) == [0, 0 if together else 1]


@pytest.mark.parametrize(("answer", "together"), [("What do you mean", True), ("Yes, sure", False)])
def test_a_short_answer_counts_as_a_whole_turn_only(answer: str, together: bool) -> None:
    assert group([user("How?"), user("Help!", answer, "Oh.")], [[answer], []]) == [0, 0 if together else 1]
    assert group([user("How?"), user("Help!", f"{answer} now?", "Oh.")], [[answer], []]) == [0, 1]


def test_equal_answers_alone_tie_nothing_but_a_prompt_that_holds_them_ties_all() -> None:
    prompts = [user("One?"), user("Two?"), user("Three?")]
    assert group(prompts, [[LONG], [LONG], []]) == [0, 1, 2]
    assert group([*prompts, user("Four?", LONG, "Go on.")], [[LONG], [LONG], [], []]) == [0, 0, 1, 0]


def test_what_belongs_together_is_a_matter_of_the_texts_and_not_of_their_order() -> None:
    chance = random.Random(5)
    words = [f"word{k}" for k in range(40)]
    answers = [[" ".join(chance.choices(words, k=chance.randrange(1, 30)))] for _ in range(300)]
    told = [chance.choice(chance.choice(answers)) if k % 5 == 0 else f"turn number {k}" for k in range(300)]
    prompts = [user(f"start {chance.randrange(900)}", turn, "and?") for turn in told]
    openings = list(map(find_opening, prompts))
    found = find_conversations(prompts, openings, answers)
    order = chance.sample(range(300), 300)
    shuffled = find_conversations([prompts[i] for i in order], [openings[i] for i in order], [answers[i] for i in order])
    assert [found[i] for i in order] == shuffled
    assert 150 < len(set(found)) < 260


def test_it_agrees_with_looking_everywhere() -> None:
    chance = random.Random(8)
    texts = ["".join(chance.choices("ab c", k=chance.randrange(1, 120))).strip() or "a" for _ in range(150)]
    told = [f"{chance.choice(texts)} {chance.choice(texts)}" if k % 9 == 0 else "" for k in range(150)]
    prompts = [user(f"{k} {text}", text[::-1], "?") for k, text in enumerate(told)]
    answers = [[chance.choice(texts), chance.choice(texts)[:60]] for _ in range(150)]
    found = find_conversations(prompts, list(map(find_opening, prompts)), answers)
    held = [[" ".join(turn.content.split()) for turn in prompt] for prompt in prompts]
    for i, own in enumerate(answers):
        for answer in (" ".join(one.split()) for one in own):
            for j, turns in enumerate(held):
                if len(answer) >= 20 and any(answer in turn for turn in turns):
                    assert found[i] == found[j]
    assert 20 < len(set(found)) < 150


def test_a_wish_to_stop_is_heard_in_between() -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        find_conversations([user("x" * 300_000), user("y")], [1, 2], [["z"], ["z"]], stop)
