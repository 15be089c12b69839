"""`python -P -m worker.reproduction ATTESTATION …`, as `permafrost reproduce` runs it."""

import sys

from worker.reproduction.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
