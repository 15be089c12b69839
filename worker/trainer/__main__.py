"""`python -P -m worker.trainer WORKSPACE`: one attempt, for whoever starts it by hand or with torchrun."""

import sys
from pathlib import Path

from worker.trainer.main import run

if __name__ == "__main__":
    run(Path(sys.argv[1]).absolute())
