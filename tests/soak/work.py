"""Run the real worker (Celery and supervisor, as `python -m worker.main`) with the soak's choice of runners."""

import sys
from pathlib import Path

from worker import main

main.service.runner_command = (sys.executable, str(Path(__file__).with_name("runner.py")))
main.main()
