"""A trainer has bitsandbytes without torch's compiler, and without code of a hub."""

import subprocess
import sys

import pytest

pytest.importorskip("bitsandbytes")

PROGRAM = """
import sys, torch
before = torch.compile
import worker.trainer.quantiser
assert "bitsandbytes" in sys.modules and torch.compile is before
assert "torch._inductor.compile_fx" not in sys.modules and "kernels" not in sys.modules
import peft
assert "redis" not in sys.modules
from bitsandbytes.nn import Linear4bit
print(Linear4bit(64, 8, quant_type="nf4").to("cpu")(torch.zeros(1, 64)).shape)
"""


def test_it_is_imported_alone() -> None:
    """And works, in a process of its own, which has torch's own compiler afterwards."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 8])" in done.stdout
    assert "Failed to load" not in done.stderr
