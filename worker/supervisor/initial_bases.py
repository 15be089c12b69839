"""Keeps small bases that were drawn from a seed, so that the next job with the same one starts no process for it."""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from app.jobs.queue.tables import Job
from worker.supervisor.checkpoints import WEIGHTS

#: A larger file is drawn again: its own writing takes as long, and the worker's memory is for other things.
MAX_FILE_BYTES: Final = 1 << 20
MAX_BYTES: Final = 32 << 20


@dataclass(slots=True)
class InitialBases:
    """Weight files by project, model spec and seed, which decide every byte of them; the oldest give way first.

    They are those of this worker process: another one may have other versions of torch or of an architecture.
    """

    _files: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, job: Job, folder: Path) -> bool:
        """Write the job's base into `folder`. False where this worker has not drawn it, or has not kept it."""
        with self._lock:
            content = self._files.get(_key(job))
            if content is not None:
                self._files.move_to_end(_key(job))
        if content is None:
            return False
        folder.mkdir(exist_ok=True)
        (folder / WEIGHTS).write_bytes(content)
        return True

    def keep(self, job: Job, folder: Path) -> None:
        """Keep the base that a trainer has drawn into `folder` for this job, if it is a plain, small file."""
        path = folder / WEIGHTS
        if path.is_symlink() or path.stat().st_size > MAX_FILE_BYTES:
            return
        with self._lock:
            self._files[_key(job)] = path.read_bytes()
            while sum(map(len, self._files.values())) > MAX_BYTES:
                self._files.popitem(last=False)


def _key(job: Job) -> str:
    return json.dumps([job.project, job.spec.to_json(), job.seed], sort_keys=True)
