"""The worker of tests/flow/work.py whose Redis takes a message for lost after VISIBILITY_SECONDS."""

import os
import sys

from tests.flow.work import STAND_IN
from worker import main

options = main.app.conf.broker_transport_options
main.app.conf.broker_transport_options = {**options, "visibility_timeout": int(os.environ["VISIBILITY_SECONDS"])}
main.service.runner_command = (sys.executable, STAND_IN, *sys.argv[1:])
main.main()
