"""How long tests wait for what has to happen. Nothing is proved by how long it takes: the machine may be busy."""

import os
from typing import Final

#: Seconds after which a wait fails; below pytest's own limit for a test.
PATIENCE: Final = float(os.environ.get("PERMAFROST_TEST_PATIENCE", "180"))
