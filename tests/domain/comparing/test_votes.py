import random
from collections import Counter

from app.domain.comparing.ballot import NUM_SHARED, Contest, VoteChoice, count_vote, gather_gains, gather_units, order_ballots
from app.domain.comparing.votes import VotesFigures, find_votes

CONTESTS = [Contest(prompt, 0, 1) for prompt in range(200)]


def test_a_voter_sees_every_contest_once_and_the_same_way_after_a_reload():
    ballots = order_ballots("cmp_1", "voter_1", CONTESTS, 4)
    assert sorted(ballot.contest for ballot in ballots) == CONTESTS
    assert ballots == order_ballots("cmp_1", "voter_1", reversed(CONTESTS), 4)
    assert {ballot.draw for ballot in ballots} == {0, 1, 2, 3}
    assert all({ballot.left, ballot.right} == {0, 1} for ballot in ballots)


def test_sides_are_drawn_for_each_voter_and_prompt():
    first, second = (order_ballots("cmp_1", voter, CONTESTS) for voter in ("voter_1", "voter_2"))
    for ballots in (first, second):
        assert 70 <= sum(ballot.left == 0 for ballot in ballots) <= 130
    sides = {ballot.contest: ballot.left for ballot in second}
    assert 70 <= sum(sides[ballot.contest] == ballot.left for ballot in first) <= 130
    draws = {ballot.contest: ballot.draw for ballot in second}
    assert all(draws[ballot.contest] == ballot.draw for ballot in first)


def test_voters_begin_with_the_same_contests_and_go_on_elsewhere():
    first, second = ([ballot.contest for ballot in order_ballots("cmp_1", voter, CONTESTS)] for voter in ("v1", "v2"))
    assert first[:NUM_SHARED] == second[:NUM_SHARED]
    assert first[NUM_SHARED] != second[NUM_SHARED]
    assert order_ballots("cmp_1", "v1", CONTESTS[:3])[0].contest in CONTESTS


def test_a_vote_is_counted_without_its_side():
    contest = Contest(3, 0, 1)
    assert count_vote("v", contest, VoteChoice.LEFT, left=0).preferred == 1
    assert count_vote("v", contest, VoteChoice.LEFT, left=1).preferred == -1
    assert count_vote("v", contest, VoteChoice.RIGHT, left=1).preferred == 1
    assert count_vote("v", contest, VoteChoice.TIE, left=1).preferred == 0
    votes = [count_vote(f"v{n}", contest, choice, left=0) for n, choice in enumerate(("left", "left", "right", "both_bad"))]
    assert gather_gains(votes) == {(0, 1): {3: 0.25}}
    assert gather_units(votes) == [["first", "first", "second", "both_bad"]]


def cast(num_prompts, num_voters, share, skill, seed=4):
    """Voters who see the better answer with a chance of `skill` and guess else; the first is better in `share` of the prompts."""
    chance, votes = random.Random(seed), []
    for prompt in range(num_prompts):
        truth = chance.random() < share
        for voter in range(num_voters):
            first = truth if chance.random() < skill else chance.random() < 0.5
            left = chance.randint(0, 1)
            choice = VoteChoice.LEFT if first == (left == 0) else VoteChoice.RIGHT
            votes.append((count_vote(f"v{voter}", Contest(prompt, 0, 1), choice, left), choice))
    return [vote for vote, _ in votes], Counter(choice for _, choice in votes)


def test_what_voters_planted_is_found():
    votes, choices = cast(300, 3, 0.65, 0.8)
    judged = {"r": {(0, 1): dict.fromkeys(range(300), 1.0)}}
    found = find_votes(votes, choices, [[50, 50]] * 300, ["a", "b"], judged)
    assert (found.num_votes, found.num_voters, found.num_shared) == (900, 3, 300)
    assert found.judge.pairs[0].winner == 0
    assert found.alpha.low <= 0.62 <= found.alpha.high  # near 0.8², as the sides are nearly even
    assert found.left_share.low < 0.5 < found.left_share.high
    [agreement] = found.agreements
    assert (agreement.first, agreement.second) == ("votes", "r")
    assert agreement.found.share.value == found.judge.pairs[0].num_wins / 300
    assert VotesFigures.model_validate_json(found.model_dump_json()) == found


def test_votes_say_how_many_more_are_wanted():
    said = [VoteChoice.LEFT] * 24 + [VoteChoice.RIGHT] * 16
    votes = [count_vote("v", Contest(prompt, 0, 1), choice, left=0) for prompt, choice in enumerate(said)]
    found = find_votes(votes, Counter(said), [[50, 50]] * 40, ["a", "b"], {})
    assert 320 < found.wanted[0] < 350  # of ± 5 points: about 370 prompts at a share of 60 %, and 40 are there
    assert found.alpha is None
    none = find_votes([], {}, [[50, 50]] * 40, ["a", "b"], {"r": {}})
    assert (none.num_votes, none.judge.pairs, none.wanted, none.left_share) == (0, [], [], None)
