"""A comparison's figures: computed once for each state of its answers and judgements, then read from where they are kept.

Small ones a request computes itself. Large ones a thread computes, while requests are told that it is at it.
"""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from math import comb
from typing import Any

from sqlalchemy.orm import Session

from app.domain.answering.verdicts import SCORES
from app.domain.comparing.ballot import Contest
from app.domain.comparing.figures import VERSION, Judged, PromptRows, Table, find_figures, list_gains
from app.domain.comparing.votes import VotesFigures, find_votes
from app.domain.errors import Conflict, Unavailable
from app.services.comparing.computations import Computations
from app.services.comparing.votes import count_rows
from app.store.answering.lines import read_answers, read_prompts, read_scores
from app.store.comparing.comparisons import Contender, list_contenders
from app.store.comparing.computed import Computed, find_kept, keep, keep_votes, read_votes
from app.store.comparing.votes import list_votes
from app.store.database import Database
from app.store.files.files import Files
from app.store.tables import Comparison, PromptSet

Line = dict[str, Any]
ByPrompt = Mapping[int, list[Line]]
Scores = Mapping[tuple[int, int], float | None]

TIE = SCORES["tie"]
SMALL = 2000  # scores of pairs, which take less than a second
COMPUTING = "The figures of this comparison are being computed, which takes some seconds: try again then."
computations = Computations()
_one_at_a_time = threading.Lock()  # of the small ones


def compute(
    session: Session, files: Files, comparison: Comparison, contenders: Sequence[Contender] | None = None
) -> Computed | None:
    """Return what is computed of a comparison; None while answers are being made, or many figures are being computed.

    What is new and small is computed now.
    """
    contenders = list_contenders(session, comparison.answers_ids) if contenders is None else contenders
    if not are_ready(comparison, contenders):
        return None
    digest = _digest(contenders)
    kept = find_kept(files, comparison.id, digest)
    if kept is not None:
        return kept
    prompt_set = session.get_one(PromptSet, comparison.prompt_set_id)
    if _count_scores(prompt_set, contenders) <= SMALL:
        with _one_at_a_time:
            kept = find_kept(files, comparison.id, digest)
            return kept or _compute(files, comparison.id, prompt_set, contenders, digest)
    work = partial(_compute_anew, session.info["database"], files, comparison.id)
    computations.ask((files.root, comparison.id), comparison.owner_id, work)
    return None


def get_computed(session: Session, files: Files, comparison: Comparison, not_ready: str) -> Computed:
    """Return what is computed. Raises Conflict, in these words, while answers are being made; Unavailable before all is there."""
    contenders = list_contenders(session, comparison.answers_ids)
    kept = compute(session, files, comparison, contenders)
    if kept is None:
        raise Unavailable(COMPUTING) if are_ready(comparison, contenders) else Conflict(not_ready)
    return kept


def are_ready(comparison: Comparison, contenders: Sequence[Contender]) -> bool:
    """Return whether all answers of the comparison are there."""
    return len(contenders) == len(comparison.answers_ids) and all(one.is_ready for one in contenders)


def compute_votes(session: Session, comparison: Comparison, contenders: Sequence[Contender], kept: Computed) -> VotesFigures:
    """Return what the votes say; computed now where there are others than the last time."""
    found = list_votes(session, comparison.id)
    state = [[row.voter_id, row.prompt, row.left_id, row.right_id, row.choice] for row in found]
    digest = hashlib.sha256(json.dumps([VERSION, sorted(state)]).encode()).hexdigest()[:40]
    known = read_votes(kept, digest, VotesFigures)
    if known is not None:
        return known
    votes, choices = count_rows(comparison, found)
    judged = {judge.key: list_gains(kept.rows.scores[judge.key]) for judge in kept.figures.judges if judge.ranks}
    figures = find_votes(votes, choices, kept.rows.lengths, [one.identity for one in contenders], judged)
    keep_votes(kept, digest, figures)
    return figures


def _digest(contenders: Sequence[Contender]) -> str:
    state = [
        [one.answers.id, one.answers.facts, [judgement.key for judgement in one.judgements if judgement.facts is not None]]
        for one in contenders
    ]
    return hashlib.sha256(json.dumps([VERSION, state], sort_keys=True).encode()).hexdigest()[:40]


def _count_scores(prompt_set: PromptSet, contenders: Sequence[Contender]) -> int:
    num_judges = max(len(one.judgements) for one in contenders)
    return prompt_set.num_prompts * comb(len(contenders), 2) * num_judges


def _compute_anew(database: Database, files: Files, comparison_id: str) -> None:
    """Compute a comparison as it is now, in a session of its own; one that is gone is let be."""
    with database.reading() as session:
        comparison = session.get(Comparison, comparison_id)
        if comparison is None:
            return
        contenders = list_contenders(session, comparison.answers_ids)
        prompt_set = session.get_one(PromptSet, comparison.prompt_set_id)
    digest = _digest(contenders)
    if find_kept(files, comparison_id, digest) is None:
        _compute(files, comparison_id, prompt_set, contenders, digest)
    with database.reading() as session:
        is_gone = session.get(Comparison, comparison_id) is None
    if is_gone:  # deleted meanwhile: its texts must not come back
        files.remove(files.comparison_dir(comparison_id))


def _compute(files: Files, comparison_id: str, prompt_set: PromptSet, contenders: Sequence[Contender], digest: str) -> Computed:
    prompts = read_prompts(files, prompt_set)
    answers = [_by_prompt(read_answers(files, one.answers)) for one in contenders]
    judged, scores = _read_judges(files, contenders, len(prompts))
    lengths = [
        [_mean([float(len(line["text"])) for line in found.get(place, [])]) for found in answers] for place in range(len(prompts))
    ]
    lines = [_write_line(prompt, place, answers, scores) for place, prompt in enumerate(prompts)]
    offsets, end = [], 0
    for line in lines:
        offsets.append(end)
        end += len(line)
    num_draws = min(one.answers.num_draws for one in contenders)
    rows = PromptRows(
        lengths=lengths,
        scores={one.key: one.scores for one in judged},
        offsets=offsets,
        contests=_list_contests(answers, len(prompts), num_draws),
        num_draws=num_draws,
    )
    figures = find_figures(judged, lengths, [one.identity for one in contenders])
    return keep(files, comparison_id, digest, figures, rows, lines)


def _read_judges(files: Files, contenders: Sequence[Contender], num_prompts: int) -> tuple[list[Judged], list[dict[str, Scores]]]:
    """Return the judges who have judged two models or more, each with the mean scores of prompts, and all single scores.

    Who has compared answers with those of one of the models has judged that one too: it ties with itself.
    """
    places = {one.answers.id: place for place, one in enumerate(contenders)}
    done = [{judgement.key: judgement for judgement in one.judgements if judgement.facts is not None} for one in contenders]
    counted = {key: judgement for found in reversed(done) for key, judgement in found.items()}
    opponents = {key: places.get(str(judgement.judge.get("against"))) for key, judgement in counted.items()}
    shared = [key for key in counted if sum(key in found for found in done) + (opponents[key] is not None) > 1]
    scores: list[dict[str, Scores]] = [
        {key: read_scores(files, one.answers, key) for key in shared if key in found}
        for one, found in zip(contenders, done, strict=True)
    ]
    tables = {key: _tabulate([one.get(key, {}) for one in scores], num_prompts) for key in shared}
    judged = [Judged(key, counted[key].name, counted[key].kind, _seat(table, opponents[key])) for key, table in tables.items()]
    return judged, scores


def _seat(table: Table, opponent: int | None) -> Table:
    """Return the scores with those of the model that the others were compared with, where they were."""
    return [
        [TIE if place == opponent and any(one is not None for one in row) else score for place, score in enumerate(row)]
        for row in table
    ]


def _tabulate(scores: Sequence[Scores], num_prompts: int) -> Table:
    sums: list[dict[int, list[float]]] = []
    for found in scores:
        by_prompt: dict[int, list[float]] = {}
        for (prompt, _), score in found.items():
            if score is not None:
                by_prompt.setdefault(prompt, []).append(score)
        sums.append(by_prompt)
    return [[_mean(by_prompt.get(prompt, [])) for by_prompt in sums] for prompt in range(num_prompts)]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _by_prompt(lines: Sequence[Line]) -> ByPrompt:
    found: dict[int, list[Line]] = {}
    for line in lines:
        found.setdefault(line["index"], []).append(line)
    return found


def _write_line(prompt: Line, place: int, answers: Sequence[ByPrompt], scores: Sequence[Mapping[str, Scores]]) -> bytes:
    shown = [
        [
            {
                "text": line["text"],
                "earlier": line.get("earlier", []),
                "finished": line.get("finished", True),
                "scores": {key: given.get((place, line["draw"])) for key, given in mine.items()},
            }
            for line in found.get(place, [])
        ]
        for found, mine in zip(answers, scores, strict=True)
    ]
    asked = {name: prompt.get(name) for name in ("id", "messages", "reference", "tags")}
    return json.dumps({**asked, "answers": shown}, ensure_ascii=False).encode() + b"\n"


def _list_contests(answers: Sequence[ByPrompt], num_prompts: int, num_draws: int) -> list[Contest]:
    """Return the pairs that can be voted on: both have all of the draws, and at least one of these differs."""
    return [
        Contest(place, first, second)
        for place in range(num_prompts)
        for first, second in combinations(range(len(answers)), 2)
        if _differ(answers[first].get(place, [])[:num_draws], answers[second].get(place, [])[:num_draws], num_draws)
    ]


def _differ(first: Sequence[Line], second: Sequence[Line], num_draws: int) -> bool:
    both_whole = len(first) == len(second) == num_draws
    return both_whole and any(_said(one) != _said(other) for one, other in zip(first, second, strict=True))


def _said(line: Line) -> list[str]:
    return [*line.get("earlier", []), line["text"]]
