"""What people's votes say: by the same figures as a judge's, with how far voters agree and how many votes are wanted still."""

from collections import Counter
from collections.abc import Mapping, Sequence

from app.domain.comparing.ballot import CastVote, VoteChoice, gather_gains, gather_units
from app.domain.comparing.figures import VOTES, JudgeFigures, JudgesAgreement, Table, compare_all, find_pairs, rank
from app.domain.dataset import Frozen
from app.domain.statistics.agreement import krippendorff_alpha
from app.domain.statistics.estimate import Estimate
from app.domain.statistics.paired import needed_for_width, win_rate
from app.domain.statistics.strengths import Gains

HALF_WIDTH = 0.05  # of the interval that votes are wanted for


class VotesFigures(Frozen):
    """The votes as one more judge, whose gain on a prompt is the mean of its voters."""

    num_votes: int
    num_voters: int
    num_ties: int
    num_both_bad: int
    judge: JudgeFigures
    alpha: Estimate | None  # Krippendorff's, of the voters
    num_shared: int  # contests that more than one voter judged
    left_share: Estimate | None  # how often people choose the left, where they choose
    agreements: list[JudgesAgreement]  # with each judge of the comparison
    wanted: list[int | None]  # of each of the judge's pairs: prompts to vote on still, for an interval of ± 5 points


def find_votes(
    votes: Sequence[CastVote],
    choices: Mapping[VoteChoice, int],
    lengths: Table,
    identities: Sequence[str],
    judged: Mapping[str, Gains],
) -> VotesFigures:
    """Return the figures of these votes; `choices` counts how they were made, `judged` has the gains by each judge's key."""
    gains = gather_gains(votes)
    units = gather_units(votes)
    left, right = choices.get(VoteChoice.LEFT, 0), choices.get(VoteChoice.RIGHT, 0)
    pairs = find_pairs(gains, lengths, identities, with_length=True)
    counts = Counter(vote.choice for vote in votes)
    agreements = [compare_all({VOTES: gains, key: found}) for key, found in judged.items()] if gains else []
    return VotesFigures(
        num_votes=len(votes),
        num_voters=len({vote.voter for vote in votes}),
        num_ties=counts[VoteChoice.TIE],
        num_both_bad=counts[VoteChoice.BOTH_BAD],
        judge=JudgeFigures(
            key=VOTES,
            name="people's votes",
            kind=VOTES,
            means=[None] * len(identities),
            score_by_length=[None] * len(identities),
            pairs=pairs,
            strengths=rank(gains, identities) if gains else None,
        ),
        alpha=krippendorff_alpha(units),
        num_shared=sum(len(unit) > 1 for unit in units),
        left_share=win_rate([1.0] * left + [0.0] * right, [0.0] * left + [1.0] * right) if left + right else None,
        agreements=[one for found in agreements for one in found],
        wanted=[count_wanted(gains[pair.first, pair.second]) for pair in pairs],
    )


def count_wanted(gains: Mapping[int, float]) -> int | None:
    """Return how many more prompts must be voted on for an interval of ± 5 points; None where too few say how they spread."""
    needed = needed_for_width(list(gains.values()), HALF_WIDTH)
    return None if needed is None else max(0, needed - len(gains))
