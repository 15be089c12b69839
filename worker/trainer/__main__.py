"""`python -P -m worker.trainer WORKSPACE` runs one attempt, by hand or under torchrun."""

import sys
from pathlib import Path

from worker.trainer.main import run

if __name__ == "__main__":
    run(Path(sys.argv[1]).absolute())
