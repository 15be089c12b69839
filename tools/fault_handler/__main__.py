"""Prints worker/trainer/readonly/machine_code.py, made of handler.c: `python -m tools.fault_handler > FILE`.

`aarch64-linux-gnu-gcc` makes the second part on a machine of the first kind. Debian's gcc 12 was used.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
MACHINES = {
    "x86_64": ("-fcf-protection=none",),
    "aarch64": ("-mcmodel=tiny", "-mno-outline-atomics"),
}
OPTIONS = (
    "-Os", "-ffreestanding", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector", "-fno-asynchronous-unwind-tables",
    "-mgeneral-regs-only", "-nostdlib", "-static", "-Wall", "-Wextra", "-Werror",
    f"-Wl,-T,{HERE / 'layout.ld'}", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments",
)  # fmt: skip
HEAD = '''"""The handler of tools/fault_handler/handler.c by machine, as `python -m tools.fault_handler` printed it."""

from typing import Final

#: Stands in the code where the address of the table goes.
PLACE: Final = 0x5045524D41465253
MACHINE_CODE: Final = {'''


def compiled(machine: str) -> bytes:
    """The code of the handler, which begins with its entry."""
    with tempfile.TemporaryDirectory() as folder:
        linked, code = Path(folder) / "linked", Path(folder) / "code"
        tools = f"{machine}-linux-gnu-"
        subprocess.run([f"{tools}gcc", *MACHINES[machine], *OPTIONS, "-o", linked, HERE / "handler.c"], check=True)
        subprocess.run([f"{tools}objcopy", "-O", "binary", "-j", ".all", linked, code], check=True)
        return code.read_bytes()


def main() -> int:
    print(HEAD)
    for machine in sys.argv[1:] or MACHINES:
        print(f'    "{machine}": bytes.fromhex(\n        """')
        code = compiled(machine).hex()
        for start in range(0, len(code), 96):
            print(f"        {code[start : start + 96]}")
        print('        """\n    ),')
    print("}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
