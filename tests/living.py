"""Whether a process lives. It may end between two questions about it, and psutil then raises."""

import psutil


def lives(process: psutil.Process | int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        found = psutil.Process(process) if isinstance(process, int) else process
        return found.is_running() and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> list[str]:
    """The command line; empty once the process has ended."""
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
