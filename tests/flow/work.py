"""Run the real worker (Celery and supervisor) with the stand-in as its runner:

python work.py [watch=SECONDS] [steps=20] [mishap@step] …          watch: how often it looks for wishes without a hint
"""

import sys
from pathlib import Path

from worker import main, supervisor

STAND_IN = str(Path(__file__).with_name("stand_in.py"))

if __name__ == "__main__":
    watch = [argument for argument in sys.argv[1:] if argument.startswith("watch=")]
    for argument in watch:
        supervisor.WATCH_SECONDS = float(argument.removeprefix("watch="))
    main.service.runner_command = (sys.executable, STAND_IN, *(part for part in sys.argv[1:] if part not in watch))
    main.main()
