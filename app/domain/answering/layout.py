"""How answers lie on the disk, for those who write them and those who read them.

prompt_sets/<id>/prompts.jsonl                      one prompt a line (Prompt)
answers/<id>/model.json                             whose answers they are: {"sha256"}
answers/<id>/part-000012.jsonl                      the answers to the prompts of one part, whole or not there
answers/<id>/tokens-000012.jsonl                    their ids and log-probabilities, there before the part is
answers/<id>/scores/<judge's key>/part-000012.jsonl what a judge says of the part: {"index", "draw", "score"}
"""

PROMPTS, MODEL, SCORES = "prompts.jsonl", "model.json", "scores"
PART_TOKENS = 32_768  # new tokens of one part: what a killed attempt loses at most
MOST_PART_PROMPTS = 256


def prompts_per_part(num_draws: int, max_new_tokens: int) -> int:
    """Return how many prompts' answers one part holds."""
    return max(1, min(MOST_PART_PROMPTS, PART_TOKENS // (num_draws * max_new_tokens)))


def name_part(number: int) -> str:
    return f"part-{number:06d}.jsonl"


def name_tokens(number: int) -> str:
    return f"tokens-{number:06d}.jsonl"
