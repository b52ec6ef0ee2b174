"""Run the real worker (Celery and supervisor) with the stand-in as its runner, or with `real` the real one:

python work.py [watch=SECONDS] [parts=SECONDS] [real] [steps=20] [mishap@step] …

watch: how often it looks for wishes without a hint; parts: how often it sends the answers that are there
"""

import sys
from pathlib import Path

from worker import main, supervisor
from worker.supervision import sending

STAND_IN = str(Path(__file__).with_name("stand_in.py"))

if __name__ == "__main__":
    own = [argument for argument in sys.argv[1:] if argument.startswith(("watch=", "parts=", "real"))]
    for argument in own:
        name, _, value = argument.partition("=")
        if name == "watch":
            supervisor.WATCH_SECONDS = float(value)
        elif name == "parts":
            sending.PARTS_SECONDS = float(value)
    if "real" not in own:
        main.service.runner_command = (sys.executable, STAND_IN, *(part for part in sys.argv[1:] if part not in own))
    main.main()
