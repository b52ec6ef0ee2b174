"""Help-desk conversations from templates and slots, preference pairs of them, and the true score of any answer.

    pairs = generate_pairs(seed=1, num_pairs=800)        # no two with the same prompt
    judge_answer(pair.prompt, pair.chosen)               # what the world itself thinks of an answer

Torch-free. The same seed gives the same text on every machine.
"""

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product as combinations
from random import Random

from worker.demonstration.sentences import (
    ADVICE,
    CLOSINGS,
    COMPLAINTS,
    DEADLINES,
    DETAIL,
    EVENTS,
    GREETINGS,
    HONESTY,
    NEEDS,
    OPENINGS,
    OUTLOOKS,
    PRODUCTS,
    REMARKS,
    REPAIRS,
    WARMTH,
    Sentence,
    list_sentences,
)

TRAIT_BOUND = 2.0  # a trait cannot be driven further by saying more of the same
GARBLED_CREDIT = -1.0  # a sentence that nobody at the help desk would write
WRONG_PRODUCT_CREDIT = -1.0
REPEATED_CREDIT = -1.0
UNFINISHED_CREDIT = -1.0
LIKENESS = 0.6  # share of common words from which a garbled sentence still counts as the one it was meant to be
EVERYDAY = (0.25, 0.35, 0.4)  # shares of the good, the middling and the bad level of each trait at the desk as it is
COLLECTED = (1 / 3, 1 / 3, 1 / 3)  # the same among answers that were collected to be compared: every level alike
LABEL_SHARPNESS = 2.0  # how reliably people prefer the better answer: P(chosen) = σ(sharpness · Δscore)


@dataclass(frozen=True)
class Case:
    """One customer's situation."""

    product: str
    problem: str
    event: str
    deadline: str
    prompt: str


@dataclass(frozen=True)
class Style:
    """How an answer is given: one level for each trait."""

    warmth: str
    detail: str
    honesty: str

    @property
    def name(self) -> str:
        return f"{self.warmth}, {self.detail}, {self.honesty}"

    @property
    def score(self) -> float:
        """The true score of a flawless answer in this style."""
        return 2 * WARMTH[self.warmth] + 2 * DETAIL[self.detail] + HONESTY[self.honesty]


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, the preferred one first, with their true scores."""

    prompt: str
    chosen: str
    rejected: str
    chosen_style: str
    rejected_style: str
    chosen_score: float
    rejected_score: float


STYLES = tuple(Style(*levels) for levels in combinations(WARMTH, DETAIL, HONESTY))


def draw_case(random: Random) -> Case:
    """Return a customer with a product, a trouble, an occasion and a deadline."""
    slots = {
        "product": random.choice(PRODUCTS),
        "problem": random.choice(list(REPAIRS)),
        "event": random.choice(EVENTS),
        "deadline": random.choice(DEADLINES),
    }
    parts = [random.choice(part) for part in (GREETINGS, COMPLAINTS, REMARKS, NEEDS)]
    return Case(**slots, prompt=" ".join(part for part in parts if part).format(**slots))


def draw_style(random: Random, shares: tuple[float, float, float]) -> Style:
    """Return each trait by itself, so that most answers have something good and something bad."""
    return Style(*(random.choices(list(levels), shares)[0] for levels in (WARMTH, DETAIL, HONESTY)))


def write_answer(random: Random, case: Case, style: Style) -> str:
    """Return an answer of four or five sentences; every style gives about the same length."""
    advice = REPAIRS[case.problem] if style.detail == "specific" else ADVICE[style.detail]
    sentences = [
        random.choice(OPENINGS[style.warmth]),
        *random.sample(advice, 2),
        random.choice(OUTLOOKS[style.honesty]),
        random.choice(CLOSINGS[style.warmth]),
    ]
    return " ".join(sentences).format(product=case.product, event=case.event, deadline=case.deadline)


def generate_cases(random: Random, num_cases: int, taken: Collection[str] = ()) -> list[Case]:
    """`num_cases` different customers, none with a prompt in `taken`."""
    cases: dict[str, Case] = {}
    while len(cases) < num_cases:
        case = draw_case(random)
        if case.prompt not in taken:
            cases[case.prompt] = case
    return list(cases.values())


def generate_answers(seed: int, num_answers: int, taken: Collection[str] = ()) -> list[tuple[str, str]]:
    """(prompt, answer) as the desk gives them every day, for the policy to learn to talk from."""
    random = Random(f"answers {seed}")
    return [
        (case.prompt, write_answer(random, case, draw_style(random, EVERYDAY)))
        for case in generate_cases(random, num_answers, taken)
    ]


def generate_pairs(seed: int, num_pairs: int, taken: Collection[str] = ()) -> list[Pair]:
    """Preference pairs with different prompts; the better answer is chosen with probability σ(sharpness · Δ true score)."""
    random = Random(f"pairs {seed}")
    return [_draw_pair(random, case) for case in generate_cases(random, num_pairs, taken)]


def _draw_pair(random: Random, case: Case) -> Pair:
    """Two styles of different worth, answered, judged and labelled."""
    first = draw_style(random, COLLECTED)
    second = draw_style(random, COLLECTED)
    while second.score == first.score:
        second = draw_style(random, COLLECTED)
    answers = [(write_answer(random, case, style), style) for style in (first, second)]
    gap = LABEL_SHARPNESS * (first.score - second.score)
    if random.random() > 1 / (1 + math.exp(-gap)):
        answers.reverse()
    (chosen, chosen_style), (rejected, rejected_style) = answers
    return Pair(
        case.prompt, chosen, rejected, chosen_style.name, rejected_style.name,
        judge_answer(case.prompt, chosen), judge_answer(case.prompt, rejected),
    )  # fmt: skip


def judge_answer(prompt: str, answer: str) -> float:
    """Return the true score of any text as an answer to `prompt`: warmth + detail + honesty − faults; the best style has 5.5.

    Each sentence counts as the known sentence it resembles. Advice for another trouble, another customer's product,
    repetition, gibberish and a missing end cost points, so that praise alone, or length, cannot win.
    """
    traits = {"warmth": 0.0, "detail": 0.0, "honesty": 0.0}
    faults = 0.0
    seen: set[Sentence] = set()
    for text in split_sentences(answer):
        sentence = _recognise(mask_slots(text))
        if sentence is None:
            faults += GARBLED_CREDIT
        elif sentence in seen:
            faults += REPEATED_CREDIT
        else:
            seen.add(sentence)
            traits[sentence.trait] += _value(sentence, prompt)
    if any(name not in prompt for name in PRODUCTS if re.search(rf"\b{name}\b", answer)):
        faults += WRONG_PRODUCT_CREDIT
    if not answer.rstrip().endswith((".", "?", "!")):
        faults += UNFINISHED_CREDIT
    return sum(max(-TRAIT_BOUND, min(TRAIT_BOUND, value)) for value in traits.values()) + faults


def _value(sentence: Sentence, prompt: str) -> float:
    """Return what a step is worth: a repair step is worth something only for the trouble it cures."""
    return -sentence.credit if sentence.problem and sentence.problem not in prompt else sentence.credit


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, each with its final mark."""
    return [part for part in re.split(r"(?<=[.?!])\s+", text.strip()) if part]


@cache
def _slot_pattern() -> re.Pattern[str]:
    names = {"product": PRODUCTS, "event": EVENTS, "deadline": DEADLINES}
    return re.compile(
        r"\b(?:" + "|".join(f"(?P<{slot}>{'|'.join(map(re.escape, words))})" for slot, words in names.items()) + r")\b"
    )


def mask_slots(text: str) -> str:
    """Return the text with every product, event and deadline put back to its slot."""
    return _slot_pattern().sub(lambda found: f"{{{found.lastgroup}}}", text)


@cache
def _known() -> dict[str, Sentence]:
    return {sentence.text: sentence for sentence in list_sentences()}


@cache
def _recognise(masked: str) -> Sentence | None:
    """Return the known sentence with these words, or the one that shares most of them, if most are shared."""
    if masked in _known():
        return _known()[masked]
    words = set(masked.lower().split())
    likeness, best = max(((_overlap(words, set(text.lower().split())), text) for text in _known()), default=(0.0, ""))
    return _known()[best] if likeness >= LIKENESS else None


def _overlap(left: set[str], right: set[str]) -> float:
    """Jaccard index of two sets of words."""
    return len(left & right) / len(left | right)


def drop_slots(text: str) -> str:
    """Return the text without its slots."""
    return re.sub(r"{\w+}", " ", text)


def list_texts() -> Iterable[str]:
    """Return every sentence and slot value of the world, with the slots left out: all words that a tokenizer has to know."""
    for texts in (PRODUCTS, EVENTS, DEADLINES, tuple(REPAIRS), GREETINGS, COMPLAINTS, REMARKS, NEEDS):
        yield from map(drop_slots, texts)
    yield from (drop_slots(sentence.text) for sentence in list_sentences())
