"""A worker whose machine has the wrong time: `PERMAFROST_TEST_SKEW` minutes off, or `jumping` to and fro."""

import os
import threading
import time
from datetime import UTC, datetime, timedelta

import time_machine

from worker.main import main as work


def main() -> None:
    skew = os.environ["PERMAFROST_TEST_SKEW"]
    first = 0 if skew == "jumping" else int(skew)
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=first), tick=True) as traveller:
        if skew == "jumping":
            threading.Thread(target=_jump, args=[traveller], daemon=True).start()
        work()


def _jump(traveller: time_machine.Traveller) -> None:
    for turn in range(1_000_000):
        time.sleep(0.7)
        traveller.shift(timedelta(minutes=20 if turn % 2 else -20))


if __name__ == "__main__":
    main()
