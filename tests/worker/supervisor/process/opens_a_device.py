"""A module whose import opens a file as CUDA's driver does, under a name that the forkserver then looks for."""

import os
import sys
from pathlib import Path

Path("nvidia-device").touch()
os.open("nvidia-device", os.O_RDONLY)
sys.modules["__main__"].CUDA_FILES = str(Path("nvidia-device").absolute())  # type: ignore[attr-defined]
