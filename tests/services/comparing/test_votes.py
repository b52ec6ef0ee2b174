import threading

import pytest

from app.domain.comparing.ballot import VoteChoice
from app.domain.errors import InvalidInput, NotFound, Unauthenticated
from app.services.acts import STUDIO
from app.services.comparing import vote_links, votes
from app.services.comparing.computing import compute, compute_votes
from app.store.comparing.comparisons import list_contenders
from app.store.comparing.votes import list_voters, list_votes
from app.store.tables import Comparison, Voter
from tests.compared import plant_comparison


@pytest.fixture
def comparison(database, files, user):
    return plant_comparison(database, files, user.id, num_prompts=30)


@pytest.fixture
def kept(database, files, comparison):
    with database.reading() as session:
        return compute(session, files, comparison)


@pytest.fixture
def secret(database, comparison):
    with database.writing() as session:
        return vote_links.create_link(session, STUDIO, comparison)[1]


def join(database, secret, name):
    with database.writing() as session:
        link, own = vote_links.join(session, secret, name)
        return vote_links.authenticate_voter(session, own, link.id).voter


def cast(database, comparison, kept, voter, place, choice):
    with database.writing() as session:
        votes.cast(session, comparison, kept, session.get_one(Voter, voter.id), place, VoteChoice(choice), 2.5)


def test_a_vote_is_one_row_however_often_it_is_sent(database, comparison, kept, secret):
    voter = join(database, secret, "Ben")
    for choice in ("left", "left", "tie"):
        cast(database, comparison, kept, voter, 0, choice)
    with database.reading() as session:
        [row] = list_votes(session, comparison.id)
        assert (row.voter, row.choice) == ("Ben", "tie")
        standing = votes.stand(session, comparison, kept, voter.id)
        assert (standing.num_votes, standing.place, len(standing.ballots)) == (1, 1, 30)


def test_a_vote_sent_in_two_threads_at_once_is_one_vote(database, comparison, kept, secret):
    voter = join(database, secret, "Ben")
    threads = [threading.Thread(target=cast, args=(database, comparison, kept, voter, 3, "left")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as session:
        assert len(list_votes(session, comparison.id)) == 1


def test_undo_takes_back_the_last_vote_once(database, comparison, kept, secret):
    voter = join(database, secret, "Ben")
    for place in range(3):
        cast(database, comparison, kept, voter, place, "left")
    for _ in range(2):  # the second is the same request again
        with database.writing() as session:
            votes.undo(session, session.get_one(Voter, voter.id), 3)
    with database.reading() as session:
        standing = votes.stand(session, comparison, kept, voter.id)
        assert (standing.num_votes, standing.place) == (2, 2)


def test_three_voters_see_the_first_pairs_alike_and_their_agreement_is_told(database, files, comparison, kept, secret):
    for name in ("Ann", "Ben", "Cleo"):
        voter = join(database, secret, name)
        with database.reading() as session:
            ballots = votes.stand(session, comparison, kept, voter.id).ballots
        for place, ballot in enumerate(ballots[:10]):
            cast(database, comparison, kept, voter, place, "left" if ballot.left == 0 else "right")  # the first model, always
    with database.reading() as session:
        contenders = list_contenders(session, comparison.answers_ids)
        found = compute_votes(session, comparison, contenders, kept)
        assert (found.num_votes, found.num_voters, found.num_shared) == (30, 3, 10)
        assert found.judge.pairs[0].win_rate.value == 1
        assert found.alpha.value == 1
        assert [one.num_votes for one in list_voters(session, comparison.id)] == [10, 10, 10]
        assert compute_votes(session, comparison, contenders, kept) == found


def test_a_place_that_is_not_there_is_refused(database, comparison, kept, secret):
    voter = join(database, secret, "Ben")
    with pytest.raises(InvalidInput, match="no pair 31"):
        cast(database, comparison, kept, voter, 30, "left")


def test_a_user_is_one_voter(database, comparison, user):
    with database.writing() as session:
        assert votes.enter(session, comparison, user).id == votes.enter(session, comparison, user).id


def test_a_link_ends_for_all_who_came_by_it(database, comparison, secret):
    with database.writing() as session:
        link, own = vote_links.join(session, secret, "Ben")
    with database.writing() as session:
        vote_links.revoke_link(session, STUDIO, comparison, link.id)
    with database.reading() as session:
        assert vote_links.find_open_link(session, secret) is None
        for refused in (
            lambda: vote_links.join(session, secret, "Ann"),
            lambda: vote_links.authenticate_voter(session, own, link.id),
        ):
            with pytest.raises(Unauthenticated, match="Ask whoever sent it"):
                refused()


def test_a_link_is_for_one_comparison_and_ends(database, files, user, comparison, secret):
    other = plant_comparison(database, files, user.id, num_prompts=3)
    with database.writing() as session:
        link = vote_links.find_open_link(session, secret)
        with pytest.raises(NotFound):
            vote_links.revoke_link(session, STUDIO, other, link.id)
        with pytest.raises(InvalidInput, match="1 to 365 days"):
            vote_links.create_link(session, STUDIO, comparison, 0)
        with pytest.raises(InvalidInput, match="Type a name"):
            vote_links.join(session, secret, "  ")
        _, own = vote_links.join(session, secret, "Ben")
        with pytest.raises(Unauthenticated):
            vote_links.authenticate_voter(session, own, "votelink_of_another")
        link.expires_at = link.created_at
        session.flush()
        assert vote_links.find_open_link(session, secret) is None


def test_a_voter_is_removed_with_the_votes(database, comparison, kept, secret):
    voter = join(database, secret, "Ben")
    cast(database, comparison, kept, voter, 0, "left")
    with database.writing() as session:
        votes.remove_voter(session, session.get_one(Comparison, comparison.id), voter.id)
    with database.reading() as session:
        assert list_votes(session, comparison.id) == []
