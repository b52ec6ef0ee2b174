"""What the terminal says of a scoring: what length explains, and whether the data could be draws of the reference."""

from app.commands.scorings import describe_draws, describe_length
from app.domain.scoring import DrawsFacts
from tests.scored import make_check


def test_the_check_tells_what_length_explains_and_what_is_known_without_it() -> None:
    check = make_check(length_slope=0.02, length_explains=0.31, controlled_accuracy=0.7).model_dump()
    assert describe_length(check) == "explains 31 % of the rewards' variance, +0.0200 a token; 70 % agreement without it"
    assert describe_length({**check, "controlled_accuracy": None}).endswith("a token")


def test_draws_stand_beside_the_data_in_nats_a_token() -> None:
    draws = DrawsFacts(
        num_prompts=640, num_draws=16, num_finished=10000, num_tokens=500_000, hit=False, index_key="i", logprob_key="l",
        reward_key="r", made_keys=("d",), data_logprob=-1.25, draw_logprob=-0.85, gap=-0.4, gap_error=0.02,
    ).model_dump()  # fmt: skip
    assert describe_draws(draws) == (
        "16 of each of 640 prompts, made; log π_ref of the data -1.25 nats a token, of the draws -0.85 (difference −0.40 ± 0.02)"
    )
