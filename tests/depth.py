"""How far the tests go that walk through very many cases: `make slow` goes all the way, `.ci/run` part of it."""

import os
from typing import Final

#: Multiplies how many cases are made up; 5 looks longer than CI has time to.
DEPTH: Final = float(os.environ.get("PERMAFROST_TEST_DEPTH", "1"))
#: Of transformers' architectures, every so manyth is tried.
EVERY: Final = int(os.environ.get("PERMAFROST_TEST_ZOO_EVERY", "1"))
