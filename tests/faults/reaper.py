"""Takes back every dead run it finds, in rounds until none is left; waits for the file GO first. `python reaper.py GO`"""

import sys
import time
from pathlib import Path

from sqlalchemy import func, select

from app.domain.run import RunState
from app.services import attempts
from app.settings import Settings
from app.store.database import Database, now
from app.store.tables import Run

database = Database(Settings())
go = Path(sys.argv[1])
with database.reading() as session:
    session.scalar(select(func.count()).select_from(Run))
sys.stdout.write("ready\n")
sys.stdout.flush()
while not go.exists():
    time.sleep(0.001)
for _ in range(20):
    with database.writing() as session:
        for run_id in attempts.reap(session):
            sys.stdout.write(f"{run_id}\n")
    with database.reading() as session:
        dead = select(func.count()).where(Run.state == RunState.RUNNING, Run.lease_expires_at < now(session))
        if not session.scalar(dead):
            break
database.close()
