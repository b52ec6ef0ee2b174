"""Run the real worker (Celery and supervisor) with the stand-in as its runner: `python work.py [steps=20] [mishap@step] …`"""

import sys
from pathlib import Path

from worker import main

STAND_IN = str(Path(__file__).with_name("stand_in.py"))

if __name__ == "__main__":
    main.service.runner_command = (sys.executable, STAND_IN, *sys.argv[1:])
    main.main()
