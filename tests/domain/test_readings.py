"""Lengths by their counts, requests by their digests."""

import pytest
from pydantic import ValidationError

from app.domain.dataset import Message
from app.domain.preview.readings import ConversationRequest, LengthCounts, LengthsReading, LengthsRequest


def test_shares_and_quantiles_are_those_of_the_sorted_lengths():
    lengths = [5, 1, 3, 3, 2, 8, 13, 1, 1, 21]
    counts = LengthCounts.of(lengths)
    ordered = sorted(lengths)
    for limit in range(25):
        assert counts.share_over(limit) == sum(length > limit for length in lengths) / 10
    assert [counts.quantile(share) for share in (0.1, 0.5, 0.9, 0.99, 1)] == [ordered[k] for k in (0, 4, 8, 9, 9)]


def test_nothing_is_over_the_limit_where_there_is_nothing():
    assert (LengthCounts.of([]).share_over(1), LengthCounts.of([]).quantile(0.9)) == (0.0, 0)


@pytest.mark.parametrize(("window", "suggested"), [(None, (128, 64)), (4096, (128, 64)), (160, (96, 64))])
def test_suggested_lengths_hold_99_of_100_texts_within_the_window(window, suggested):
    reading = LengthsReading(
        num_examples=100, num_sampled=100, prompts=LengthCounts.of([*range(1, 100), 5000]),
        responses=LengthCounts.of([40] * 200), window=window, tokenizer_sha256="0" * 64,
    )  # fmt: skip
    assert reading.suggest() == suggested


def test_other_states_of_the_files_make_another_digest():
    request = LengthsRequest(model_id="model_1", dataset_id="data_1")
    assert request.digest("a", "b") == LengthsRequest(model_id="model_1", dataset_id="data_1").digest("a", "b")
    assert (
        len({request.digest("a", "b"), request.digest("a", "c"), request.model_copy(update={"whole": True}).digest("a", "b")})
        == 3
    )


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([("user", "Why?"), ("user", "Well?")], "ends with the assistant's answer"),
        ([("user", "x" * 20_000), ("assistant", "No.")], "at most 20,000 characters"),
    ],
)
def test_a_conversation_to_look_at_is_short_and_answered(messages, sentence):
    with pytest.raises(ValidationError, match=sentence):
        ConversationRequest(model_id="m", messages=[Message(role=role, content=content) for role, content in messages])
