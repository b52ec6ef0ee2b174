"""What a comparison gives to train on: votes as they were cast, and a preference data set by votes or by a judge's order."""

import json
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from sqlalchemy.orm import Session

from app.domain.comparing.ballot import VoteChoice, draw_of, gather_gains
from app.domain.comparing.figures import VOTES, list_gains
from app.domain.dataset import ColumnMapping, DatasetOrigin
from app.domain.errors import Conflict, InvalidInput
from app.domain.statistics.strengths import Gains
from app.services import datasets
from app.services.comparing.votes import gather
from app.store.comparing.comparisons import Contender, list_contenders, name_models
from app.store.comparing.computed import Computed
from app.store.comparing.votes import VoteRow, list_votes
from app.store.files.files import Files
from app.store.sharing import NOBODY, find_visible
from app.store.tables import Comparison, Dataset

MAPPING = ColumnMapping.model_validate(
    {"shape": "pair", "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}}
)
NAME_LENGTH = 120
Line = dict[str, Any]


def list_vote_lines(session: Session, comparison: Comparison, kept: Computed) -> list[bytes]:
    """Return one line per vote: what was seen, what was chosen, by whom and how fast."""
    names = dict(zip(comparison.answers_ids, name_models(list_contenders(session, comparison.answers_ids)), strict=True))
    places = {key: place for place, key in enumerate(comparison.answers_ids)}
    rows = list_votes(session, comparison.id)
    prompts = sorted({row.prompt for row in rows})
    texts = dict(zip(prompts, kept.read_texts(prompts), strict=True))
    return [_encode(_tell_vote(row, texts[row.prompt], names, places)) for row in rows]


def make_dataset(
    session: Session,
    files: Files,
    comparison: Comparison,
    kept: Computed,
    *,
    owner_id: str,
    judge: str = VOTES,
    margin: float = 0.0,
    name: str = "",
) -> Dataset:
    """Return a new data set of this user, in state processing.

    It has of each prompt and pair of models the answer that votes or a judge prefer, and the other. Pairs that differ by
    no more than the margin are left out, and questions of several turns, as each model has led its own conversation.

    Raises Conflict where nothing is preferred, InvalidInput for a judge that isn't there or ranks nobody.
    """
    gains = find_gains(session, comparison, kept, judge)
    contenders = list_contenders(session, comparison.answers_ids)
    lines = [_encode(line) for line in _list_pairs(comparison, contenders, kept, gains, judge, margin)]
    if not lines:
        raise Conflict("Nobody prefers any of these answers" + (" by more than the margin." if margin else " yet: vote first."))
    by = "votes" if judge == VOTES else next(one.name for one in kept.figures.judges if one.key == judge)
    is_hidden = find_visible(session, Comparison, NOBODY, comparison.id) is None
    with files.open_upload() as upload:
        for line in lines:
            upload.write(line)
        return datasets.upload(
            session, files, owner_id=owner_id, private=is_hidden,
            name=name.strip() or f"{comparison.name}, by {by}"[:NAME_LENGTH],
            filename=f"{comparison.id}-{'votes' if judge == VOTES else 'judge'}.jsonl", upload=upload, mapping=MAPPING,
            made_from=DatasetOrigin(comparison=comparison.id, judge=judge),
        )  # fmt: skip


def find_gains(
    session: Session, comparison: Comparison, kept: Computed, judge: str
) -> Mapping[tuple[int, int], Mapping[int, float]]:
    """Return by pair and prompt how much the first is preferred."""
    if judge == VOTES:
        return gather_gains(gather(session, comparison)[0])
    if judge not in {one.key for one in kept.figures.judges if one.ranks}:
        raise InvalidInput.at("judge", f"No judge {judge!r} ranks these answers: take votes, or the key of one that does.")
    return list_gains(kept.rows.scores[judge])


def _list_pairs(
    comparison: Comparison, contenders: list[Contender], kept: Computed, gains: Gains, judge: str, margin: float
) -> Iterator[Line]:
    names = name_models(contenders)
    prompts = sorted({prompt for found in gains.values() for prompt in found})
    for prompt, line in zip(prompts, kept.read_texts(prompts), strict=True):
        for pair in combinations(range(len(contenders)), 2):
            gain = gains.get(pair, {}).get(prompt, 0.0)
            if abs(gain) <= margin:
                continue
            chosen, rejected = pair if gain > 0 else reversed(pair)
            best = _choose_text(comparison, kept, line, chosen, prompt, judge, is_best=True)
            worst = _choose_text(comparison, kept, line, rejected, prompt, judge, is_best=False)
            if best == worst or any(drawn and drawn[0]["earlier"] for drawn in line["answers"]):
                continue  # the same, or after several turns, which are not the same
            yield {
                "prompt": line["messages"], "chosen": best, "rejected": worst, "prompt_id": line["id"], "judge": judge,
                "gain": round(abs(gain), 6), "chosen_model": names[chosen], "rejected_model": names[rejected],
                "chosen_model_sha256": _hash_of(contenders[chosen]), "rejected_model_sha256": _hash_of(contenders[rejected]),
            }  # fmt: skip


def _tell_vote(row: VoteRow, line: Line, names: Mapping[str, str], places: Mapping[str, int]) -> Line:
    left, right = (
        line["answers"][places[key]][draw]["text"] for key, draw in ((row.left_id, row.left_draw), (row.right_id, row.right_draw))
    )
    told: Line = {
        "prompt": line["messages"], "prompt_id": line["id"], "choice": row.choice.value, "voter": row.voter,
        "left": {"model": names[row.left_id], "answers": row.left_id, "draw": row.left_draw, "text": left},
        "right": {"model": names[row.right_id], "answers": row.right_id, "draw": row.right_draw, "text": right},
        "seconds": row.seconds, "at": row.at.isoformat(),
    }  # fmt: skip
    is_single = not any(drawn and drawn[0]["earlier"] for drawn in line["answers"])
    if is_single and row.choice in (VoteChoice.LEFT, VoteChoice.RIGHT):
        best, worst = (left, right) if row.choice == VoteChoice.LEFT else (right, left)
        told |= {"chosen": best, "rejected": worst}
    return told


def _choose_text(
    comparison: Comparison, kept: Computed, line: Line, model: int, prompt: int, judge: str, *, is_best: bool
) -> str:
    """Return what voters saw; by a judge the draw that it likes most, or least."""
    drawn = line["answers"][model]
    if judge == VOTES:
        return str(drawn[draw_of(comparison.id, prompt, kept.rows.num_draws)]["text"])
    scored = [one for one in drawn if one["scores"].get(judge) is not None]
    return str((max if is_best else min)(scored, key=lambda one: one["scores"][judge])["text"])


def _hash_of(contender: Contender) -> str | None:
    found: str | None = (contender.answers.facts or {}).get("model_sha256")
    return found


def _encode(line: Line) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"
