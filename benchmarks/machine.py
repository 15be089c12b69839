"""The machine that figures were taken on: a number without it says little."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.figure import Figure

PACKAGES = ("torch", "transformers", "fastapi", "sqlalchemy", "celery")


def machine() -> Figure:
    return Figure("machine", f"{processor()}; {cores()} cores; {memory_gib()} GiB; {platform.platform()}; {software()}")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def software() -> str:
    return " ".join([f"Python {platform.python_version()}", *(f"{name} {installed(name)}" for name in PACKAGES)])


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
