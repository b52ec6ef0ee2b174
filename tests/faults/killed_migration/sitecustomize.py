"""For every Python with this folder in its PYTHONPATH: SIGKILL itself before the DIE_AT-th statement that changes tables."""

import os
import signal
from typing import Any

from alembic.ddl.impl import DefaultImpl

seen = 0
execute = DefaultImpl._exec


def die_or_execute(self: DefaultImpl, *arguments: Any, **options: Any) -> Any:
    global seen
    seen += 1
    if seen == int(os.environ["DIE_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return execute(self, *arguments, **options)


DefaultImpl._exec = die_or_execute  # type: ignore[method-assign]
