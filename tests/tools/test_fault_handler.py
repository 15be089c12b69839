"""The machine code that is shipped is made of the source that is shown."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tools.fault_handler.__main__ import MACHINES, compiled
from worker.trainer.readonly.machine_code import MACHINE_CODE, PLACE


@pytest.mark.parametrize("machine", MACHINES)
def test_code_is_what_the_source_compiles_to(machine: str) -> None:
    """Byte for byte, by the compiler that was used."""
    compiler = shutil.which(f"{machine}-linux-gnu-gcc")
    if compiler is None:
        pytest.skip(f"no gcc for {machine}")
    version = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip()
    if version != "12":
        pytest.skip(f"gcc {version} writes other bytes than gcc 12")
    assert compiled(machine) == MACHINE_CODE[machine]


def test_the_place_of_the_table_is_there_once() -> None:
    """And the code fits into a page."""
    for code in MACHINE_CODE.values():
        assert code.count(PLACE.to_bytes(8, "little")) == 1
        assert len(code) < 4096
