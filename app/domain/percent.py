"""Shares of one as sentences have them."""


def percent(share: float, decimals: int = 0) -> str:
    """`12 %`: a share of one as per cent."""
    return f"{share * 100:.{decimals}f} %"
