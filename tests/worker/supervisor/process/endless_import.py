"""A module whose import does not end: as torch's, which takes seconds."""

import time
from pathlib import Path

Path("importing").touch()
time.sleep(3600)
