"""Run the real worker with the real runner and these mishaps in store: `python real_worker.py [MISHAP] …`"""

import sys

from tests.faults.runner.mishaps import RUNNER_COMMAND
from worker import main

if __name__ == "__main__":
    main.service.runner_command = (*RUNNER_COMMAND, *sys.argv[1:])
    main.main()
