"""Run the real worker with the real runner and these mishaps in store: `python real_worker.py [MISHAP] …`"""

import sys

from worker import main

if __name__ == "__main__":
    main.service.runner_command = (sys.executable, "-m", "tests.faults.runner.mishaps", *sys.argv[1:])
    main.main()
