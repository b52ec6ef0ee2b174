"""Every error that a user can meet, each with its HTTP status and a sentence to act on.

StudioError                      500
├── InvalidInput                 422   names the field or the line
│   ├── RecipeInvalid
│   ├── DatasetInvalid
│   │   └── MappingNeeded        422   the shape is unknown; carries the columns found
│   └── ModelInvalid
├── WrongHost                    400
├── TooSlow                      408
├── TooLarge                     413
├── UnsupportedMedia             415
├── NotFound                     404
├── Conflict                     409
│   └── StaleToken               409   a fenced-out attempt tried to write
├── Unauthenticated              401
├── Forbidden                    403
├── TooManyRequests              429
└── Unavailable                  503   try again after `retry_after_seconds`
    └── StorageFull              507   nothing new is taken in until somebody makes room
"""

from collections.abc import Mapping, Sequence
from typing import Any

MAX_USERS = 50  # that are listed of what is in use


class StudioError(Exception):
    """An error with a sentence for the user.

    `detail` says what is wrong, where, and what to do. `problems` lists single faults as
    `{"field": dotted path or "", "message": sentence, "line": int}` (`line` only where one is known).
    """

    status = 500
    title = "Something went wrong"

    def __init__(
        self, detail: str, *, problems: Sequence[Mapping[str, Any]] = (), extra: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = [dict(problem) for problem in problems]
        self.extra = dict(extra or {})

    @property
    def code(self) -> str:
        """The class name, in words joined by hyphens: `RecipeInvalid` → `recipe-invalid`."""
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in type(self).__name__).lstrip("-")


class InvalidInput(StudioError):
    status = 422
    title = "The input is not valid"

    @classmethod
    def at(cls, field: str, message: str) -> "InvalidInput":
        """One fault at one field: the message stands both as the detail and beside the field."""
        return cls(message, problems=[{"field": field, "message": message}])


class RecipeInvalid(InvalidInput):
    title = "The recipe is not valid"


class DatasetInvalid(InvalidInput):
    title = "The data set can't be read"


class MappingNeeded(DatasetInvalid):
    title = "The columns need a mapping"


class ModelInvalid(InvalidInput):
    title = "The model can't be used"


class WrongHost(StudioError):
    status = 400
    title = "Unknown host name"


class UnsupportedMedia(StudioError):
    status = 415
    title = "Wrong kind of body"


class TooSlow(StudioError):
    status = 408
    title = "Too slow"


class TooLarge(StudioError):
    status = 413
    title = "Too large"


class NotFound(StudioError):
    status = 404
    title = "Not found"


class Conflict(StudioError):
    status = 409
    title = "Not possible in this state"

    @classmethod
    def in_use(cls, detail: str, noun: str, users: Sequence[tuple[str, str]], *, num: int | None = None) -> "Conflict":
        """Return the refusal to delete what `num` things use: those named, (id, name), are listed by pages and the terminal."""
        shown = [{"kind": noun, "id": key, "name": name} for key, name in users[:MAX_USERS]]
        return cls(detail, extra={"used_by": shown, "num_used_by": len(users) if num is None else num})


class StaleToken(Conflict):
    title = "Another attempt owns this run"


class Unauthenticated(StudioError):
    status = 401
    title = "Please sign in"


class Forbidden(StudioError):
    status = 403
    title = "Not allowed"


class TooManyRequests(StudioError):
    status = 429
    title = "Too many tries"

    def __init__(self, detail: str, *, retry_after_seconds: int = 60) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(StudioError):
    status = 503
    title = "Not available right now"

    def __init__(self, detail: str, *, retry_after_seconds: int = 5) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class StorageFull(Unavailable):
    status = 507
    title = "There is no room"

    def __init__(self, detail: str, *, retry_after_seconds: int = 60) -> None:
        super().__init__(detail, retry_after_seconds=retry_after_seconds)
