"""A series as a small line that the server draws: its course without axes, for a row or a card."""

from collections.abc import Sequence

WIDTH, HEIGHT, EDGE = 160, 36, 2


def trend(points: Sequence[tuple[int, float]]) -> str:
    """Return the points of an SVG polyline of WIDTH × HEIGHT; empty for fewer than two."""
    if len(points) < 2:
        return ""
    first, last = points[0][0], points[-1][0]
    low, high = min(value for _, value in points), max(value for _, value in points)
    across, up = (WIDTH - 2 * EDGE) / max(1, last - first), (HEIGHT - 2 * EDGE) / (high - low or 1.0)
    return " ".join(f"{EDGE + (step - first) * across:.1f},{HEIGHT - EDGE - (value - low) * up:.1f}" for step, value in points)
