"""What a check of the studio says: fine, worth a look, or broken; with a sentence, and what to do."""

from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check; `remedy` is empty when all is well."""

    check: str
    level: Level
    sentence: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def ok(check: str, sentence: str) -> CheckResult:
    return CheckResult(check, Level.OK, sentence)


def warning(check: str, sentence: str, remedy: str) -> CheckResult:
    return CheckResult(check, Level.WARNING, sentence, remedy)


def error(check: str, sentence: str, remedy: str) -> CheckResult:
    return CheckResult(check, Level.ERROR, sentence, remedy)


def has_error(verdicts: list[CheckResult]) -> bool:
    return any(verdict.level is Level.ERROR for verdict in verdicts)
