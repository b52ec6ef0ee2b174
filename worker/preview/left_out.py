"""What is counted while a sample is read: lengths, and why examples are refused or lose something, with their first lines."""

from dataclasses import dataclass, field

from app.domain.preview.readings import LeftOut

MOST_LINES, MOST_REASONS = 5, 20


class Reasons:
    """Counts by reason, with the first lines of each."""

    def __init__(self) -> None:
        self._lines: dict[str, list[int]] = {}

    def add(self, reason: str, line: int) -> None:
        self._lines.setdefault(reason, []).append(line)

    def told(self) -> tuple[LeftOut, ...]:
        """Return the reasons, the most frequent first."""
        ordered = sorted(self._lines.items(), key=lambda item: -len(item[1]))[:MOST_REASONS]
        return tuple(LeftOut(reason=name, count=len(lines), lines=sorted(lines)[:MOST_LINES]) for name, lines in ordered)


@dataclass
class Tally:
    """`prompts`, `responses`: their numbers of tokens, of whole conversations only the latter."""

    num_examples: int = 0
    prompts: list[int] = field(default_factory=list)
    responses: list[int] = field(default_factory=list)
    refused: Reasons = field(default_factory=Reasons)
    omitted: Reasons = field(default_factory=Reasons)
