"""A comparison as a whole: what is known now of its models, judges and votes. The same for pages and REST."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.orm import Session

from app.domain.comparing.ballot import gather_gains
from app.domain.comparing.figures import LENGTH, VOTES, JudgeFigures, list_gains
from app.domain.comparing.order import ByJudge
from app.domain.comparing.verdict import find_leading_judge, write_verdict
from app.domain.comparing.votes import VotesFigures
from app.services.comparing.computing import are_ready, compute, compute_votes
from app.services.comparing.votes import gather
from app.store.comparing.comparisons import Contender, list_contenders, name_models
from app.store.comparing.computed import Computed
from app.store.files.files import Files
from app.store.tables import Comparison, PromptSet

SEPARATOR = " · "  # behind a sweep's name, in those of its runs
State = Literal["making", "computing", "ready", "failed"]


@dataclass(frozen=True)
class Overview:
    """`kept` and `votes` are None while answers are being made, and while many figures are computed."""

    comparison: Comparison
    prompt_set: PromptSet
    contenders: list[Contender]
    names: list[str]
    kept: Computed | None
    votes: VotesFigures | None

    @property
    def state(self) -> State:
        if self.kept is not None:
            return "ready"
        if any(one.has_failed for one in self.contenders):
            return "failed"
        return "computing" if are_ready(self.comparison, self.contenders) and not wait_for_judges(self.contenders) else "making"

    @property
    def judging(self) -> list[str]:
        """The judges who have still to say something, and will, by name."""
        found = [judgement.name for one in self.contenders if one.is_being_judged for judgement in one.waiting]
        return list(dict.fromkeys(found))

    @property
    def unjudged(self) -> dict[str, list[str]]:
        """The judges who have judged some of the answers and will not judge the others, by name: those models."""
        said: dict[tuple[str, str], list[bool]] = {}
        for place, one in enumerate(self.contenders):
            for judgement in one.judgements:
                if judgement.judge.get("against") is None:
                    states = said.setdefault((judgement.key, judgement.name), [False] * len(self.contenders))
                    states[place] = judgement.facts is not None or one.is_being_judged
        lacking = {
            name: [self.names[place] for place, told in enumerate(states) if not told] for (_, name), states in said.items()
        }
        return {name: models for name, models in lacking.items() if models}

    @property
    def judges(self) -> list[JudgeFigures]:
        """All judges, with people's votes behind them."""
        found = list(self.kept.figures.judges) if self.kept else []
        return [*found, self.votes.judge] if self.votes and self.votes.num_votes else found

    @property
    def leading(self) -> JudgeFigures | None:
        """The judge whose word is told first; people's votes where nobody else ranks."""
        found = find_leading_judge(self.kept.figures) if self.kept else None
        voted = self.votes is not None and bool(self.votes.judge.pairs)
        return found or (self.votes.judge if self.votes and voted else None)

    @property
    def verdict(self) -> str:
        """The first sentence; empty while there are no figures."""
        return write_verdict(self.leading, self.names) if self.kept else ""


def look(session: Session, files: Files, comparison: Comparison) -> Overview:
    """Return all that is known of a comparison; what is new is computed, and kept."""
    contenders = list_contenders(session, comparison.answers_ids)
    kept = None if wait_for_judges(contenders) else compute(session, files, comparison, contenders)
    return Overview(
        comparison=comparison,
        prompt_set=session.get_one(PromptSet, comparison.prompt_set_id),
        contenders=contenders,
        names=drop_common(name_models(contenders)),
        kept=kept,
        votes=compute_votes(session, comparison, contenders, kept) if kept else None,
    )


def wait_for_judges(contenders: Sequence[Contender]) -> bool:
    """Return whether nobody who ranks has judged two of the models yet, and somebody is at it: then there is nothing to say."""
    said = Counter(
        judgement.key for one in contenders for judgement in one.judgements if judgement.facts and judgement.kind != LENGTH
    )
    ranking = [judgement for one in contenders if one.is_being_judged for judgement in one.waiting if judgement.kind != LENGTH]
    return bool(ranking) and max(said.values(), default=0) < 2


def drop_common(names: Sequence[str]) -> list[str]:
    """Return the names without what all have before a “ · ”: of runs of one sweep what they differ in."""
    split = [name.partition(SEPARATOR) for name in names]
    is_common = len({head for head, _, _ in split}) == 1 and all(tail.strip() for _, _, tail in split)
    return [tail for _, _, tail in split] if is_common else list(names)


def list_pair_gains(session: Session, comparison: Comparison, kept: Computed, pair: tuple[int, int]) -> ByJudge:
    """Return by each judge that ranks, people's votes among them, what the first of two models got more on each prompt."""
    ranking = [judge.key for judge in kept.figures.judges if judge.ranks]
    found = {key: list_gains([[row[pair[0]], row[pair[1]]] for row in kept.rows.scores[key]]).get((0, 1), {}) for key in ranking}
    voted = gather_gains(gather(session, comparison)[0]).get((min(pair), max(pair)), {})
    sign = 1 if pair[0] < pair[1] else -1
    return {**found, VOTES: {prompt: sign * gain for prompt, gain in voted.items()}} if voted else found
