"""How much of a file is taken in before it is refused: caps against bombs and against memory running out."""

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Sizes are of the unpacked data. A file that unpacks to more than `max_ratio` times its size is refused as a bomb,
    once it is past `ratio_floor_bytes`: ordinary text shrinks to between a third and a fiftieth."""

    max_unpacked_bytes: int = 200 * 2**30
    max_ratio: int = 200
    ratio_floor_bytes: int = 32 * MIB
    max_row_bytes: int = 4 * MIB
    max_columns: int = 2000
    max_responses: int = 64  # of one example
    sample_rows: int = 200  # that the shape is recognised from
    sample_bytes: int = 16 * MIB
    batch_rows: int = 1024  # written at once
    batch_chars: int = 4 * MIB
