"""Processes that die with the one that started them, at once and however it ends, also by SIGKILL."""

import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

#: Standard input of a tied process is its lifeline.
LIFELINE: Final = 0


def start_tied(
    module: str, arguments: Sequence[str], *, home: Path, environment: Mapping[str, str], **options: Any
) -> tuple[subprocess.Popen[bytes], int]:
    """Run `python -m module` in the folder `home` and a session of its own; its `main` has to call `die_with`.

    Returns the process and the write end of its lifeline, which the caller closes once the process has ended.
    """
    # -P: no modules from its working folder; -s: nor from its home. Trainers may write there.
    command = [sys.executable, "-P", "-s", "-m", module, *arguments]
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=home,
            stdin=read_end,
            # Ctrl-C in the terminal is for the worker alone: it stops its trainers in order.
            start_new_session=True,
            **options,
        )
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return process, write_end


def die_with(lifeline: int) -> None:
    """Have the kernel kill this process's whole group when the write end of this pipe closes.

    It does so at once, also while one call holds Python's lock for minutes. PR_SET_PDEATHSIG would not do: it is sent
    when the *thread* that started a process ends, and a trainer's parent is the forkserver, not the worker.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    # The worker may have ended before anyone listened.
    if select.select([lifeline], [], [], 0)[0]:
        os.killpg(0, signal.SIGKILL)
