"""`python -m tests.box` (or `make box`): the box without Docker, by hand. `--keep` leaves it running until Ctrl-C."""

import argparse
import sys
import time

from tests.box.box import running_box
from tests.box.journey import both_workers_took_part, travel
from tests.box.servers import find_postgresql, find_redis


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.box", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="when the runs are done, leave the box running until Ctrl-C")
    parser.add_argument("--workers", type=int, default=2, help="how many workers (2)")
    chosen = parser.parse_args()
    if missing := [name for name, found in (("postgresql", find_postgresql()), ("redis-server", find_redis())) if found is None]:
        sys.exit(
            f"The box needs {' and '.join(missing)}, which is not installed here. On Debian: apt-get install {' '.join(missing)}"
        )
    start = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - start:6.1f} s  {text}\n")
        sys.stdout.flush()

    with running_box(num_workers=chosen.workers) as box:
        say(f"PostgreSQL, Redis, migrations, web and {chosen.workers} workers are up: {box.url}, logs in {box.folder}")
        runs = travel(box, say)
        say("both runs at once, on two workers" if both_workers_took_part(runs) else "one run after the other")
        try:
            while chosen.keep:
                time.sleep(1)
        except KeyboardInterrupt:
            say("stopping")
        say(f"stopped: {', '.join(f'{name} with status {status}' for name, status in box.stop().items())}")


if __name__ == "__main__":
    main()
