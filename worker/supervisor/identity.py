"""The name of this worker process: never the same twice, so that a restarted worker inherits no lease."""

import os
import socket
from pathlib import Path


def identity() -> str:
    """`host/boot/pid/start`, from the kernel's own numbers."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    # Field 22 of stat is the start time; the second one, in brackets, may hold spaces.
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return f"{socket.gethostname()[:64]}/{boot}/{os.getpid()}/{started}"
