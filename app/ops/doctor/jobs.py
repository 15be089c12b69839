"""Jobs and their files on this machine: leases that no worker renews, folders of deleted jobs, checkpoints."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import and_, case, func, select

from app.db import Database, now
from app.files.tables import File
from app.jobs.queue import lifecycle, usage
from app.jobs.queue.states import LEASED, TERMINAL
from app.jobs.queue.tables import Checkpoint, Event, Job
from app.ops.doctor.finding import Finding
from app.ops.retention.tables import RetentionPlace
from app.settings import Settings
from app.storage.blobs import UNSETTLED_SECONDS

#: Subfolder of the work folder for folders of unknown jobs.
QUARANTINE: Final = "quarantine"
#: Lists the files of a checkpoint, in the checkpoint's folder.
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class JobAudit:
    """One comparison of jobs with their leases, events, folders and checkpoints on this machine."""

    settings: Settings
    db: Database
    older_than: float | None = None
    deep: bool = False

    def findings(self) -> Iterator[Finding]:
        yield from self._leases()
        yield from self._usage()
        yield from self._events()
        yield from self._folders()

    # ---- rows

    def _leases(self) -> Iterator[Finding]:
        """Leases that expired two rounds of maintenance ago: any running worker would have taken them over."""
        with self.db.read() as session:
            overdue = now(session) - timedelta(seconds=2 * self.settings.sweep_seconds)
            stale = session.scalars(select(Job).where(Job.status.in_(LEASED), Job.lease_until < overdue)).all()
        for job in stale:
            message = (
                f"its lease by {job.lease_owner} expired at {job.lease_until:%Y-%m-%d %H:%M:%S} UTC; no worker runs"
            )
            yield Finding("stale_lease", job.id, message, "requeued, as any worker would", self._recover)

    def _recover(self) -> str:
        lifecycle.recover(self.db, limit=self.settings.max_crashes)
        return "requeued, or failed after too many crashes"

    def _usage(self) -> Iterator[Finding]:
        with self.db.read() as session:
            differing = usage.differences(session)
        for project, counted, leased in differing:
            message = f"it is said to use {counted} devices, and its jobs hold {leased}"
            yield Finding("wrong_usage", project, message, "corrected", self._recount)

    def _recount(self) -> str:
        usage.recount(self.db)
        return "corrected"

    def _events(self) -> Iterator[Finding]:
        with self.db.read() as session:
            numbers = (func.count().label("stored"), func.min(Event.seq).label("first"))
            counts = select(Event.job_id, *numbers).group_by(Event.job_id).subquery()
            stored = func.coalesce(counts.c.stored, 0)
            query = select(Job.id, Job.events_count, stored).outerjoin(counts, counts.c.job_id == Job.id)
            # Where retention is on, the first events of a job that has ended are not lost.
            retained = select(RetentionPlace.kind).where(RetentionPlace.kind == "events").exists()
            old = and_(retained, Job.finished_at.is_not(None), counts.c.first > 1)
            expected = Job.events_count - case((old, counts.c.first - 1), else_=0)
            rows = session.execute(query.where(expected != stored)).all()
        for job_id, expected, count in rows:
            yield Finding("lost_events", job_id, f"has {count} events instead of {expected}")

    def expired(self) -> Iterator[Finding]:
        """Expired files, which the API hides already and no open job uses."""
        with self.db.read() as session:
            rows = session.scalars(select(File).where(File.expires_at < now(session))).all()
            open_jobs = session.scalars(select(Job).where(Job.status.not_in(TERMINAL))).all()
        used = {name for job in open_jobs for name in (job.training_file, job.validation_file)}
        used |= {job.spec.weights for job in open_jobs}
        for row in rows:
            if row.id not in used:
                message = f"expired {row.expires_at:%Y-%m-%d %H:%M} UTC"
                remedy = "deleted; a later run removes its bytes"
                yield Finding("expired_file", row.id, message, remedy, partial(self._forget, row.id), level="note")

    def _forget(self, file_id: str) -> str:
        with self.db.write() as session:
            row = session.get(File, file_id)
            if row is not None and row.expires_at is not None and row.expires_at < now(session):
                session.delete(row)
        return "deleted"

    # ---- folders of this machine

    def _folders(self) -> Iterator[Finding]:
        work = self.settings.work
        settled = time.time() - (UNSETTLED_SECONDS if self.older_than is None else self.older_than)
        for folder in sorted(work.glob("ftjob-*")) if work.is_dir() else ():
            with self.db.read() as session:
                job = session.get(Job, folder.name)
                steps = set(session.scalars(select(Checkpoint.step).where(Checkpoint.job_id == folder.name)))
            if job is None:
                if newest(folder) <= settled:
                    message = "no job has this id; was an older database restored?"
                    remedy = f"moved to {work / QUARANTINE}"
                    yield Finding("unknown_job_folder", str(folder), message, remedy, partial(self._set_aside, folder))
            elif job.status in TERMINAL:
                if newest(folder) <= settled:
                    message = f"the job has ended ({job.status}) and no longer needs it"
                    yield Finding("leftover_folder", str(folder), message, "removed", partial(self._remove, folder))
            else:
                yield from self._attempts(folder, job, settled)
                yield from self._checkpoints(folder / "checkpoints", job, steps, settled)

    def _attempts(self, folder: Path, job: Job, settled: float) -> Iterator[Finding]:
        """Folders of attempts that are over: those with a lower number than the running attempt."""
        for path in sorted(folder.glob("a*")):
            number = int(path.name[1:]) if path.name[1:].isdecimal() else None
            over = number is not None and (number < job.attempt or (number == job.attempt and job.status not in LEASED))
            if over and newest(path) <= settled:
                message = f"attempt {number} is over; its worker was killed before it removed the folder"
                yield Finding("leftover_attempt", str(path), message, "removed", partial(self._remove, path))

    def _checkpoints(self, folder: Path, job: Job, known_steps: set[int], settled: float) -> Iterator[Finding]:
        if job.status in LEASED or not folder.is_dir():
            return  # its trainer may be writing
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") and newest(path) <= settled:
                yield Finding(
                    "unfinished_checkpoint",
                    str(path),
                    "a checkpoint that was never finished",
                    "removed",
                    partial(self._remove, path),
                )
            elif path.name.startswith("step-"):
                yield from self._checkpoint(path, known_steps)

    def _checkpoint(self, path: Path, known_steps: set[int]) -> Iterator[Finding]:
        if why := _damage(path, deep=self.deep):
            message = f"{why}; a resumed job starts from the checkpoint before it"
            yield Finding("damaged_checkpoint", str(path), message, "removed", partial(self._remove, path))
        elif path.name[5:].isdecimal() and int(path.name[5:]) not in known_steps:
            message = "complete, but has no row, since its worker was killed in between; a resumed job starts from it"
            yield Finding("checkpoint_without_row", str(path), message, level="note")

    def _set_aside(self, folder: Path) -> str:
        quarantine = self.settings.work / QUARANTINE
        quarantine.mkdir(exist_ok=True)
        target = quarantine / f"{folder.name}.{time.time_ns()}"
        folder.rename(target)
        return f"moved to {target}"

    def _remove(self, path: Path) -> str:
        shutil.rmtree(path, ignore_errors=True)
        return "removed"


def newest(folder: Path) -> float:
    """Time of the last write in a folder, in Unix seconds; 0.0 when the folder is gone."""
    times = [path.lstat().st_mtime for path in (folder, *folder.rglob("*")) if path.is_symlink() or path.exists()]
    return max(times, default=0.0)


def _damage(path: Path, *, deep: bool) -> str | None:
    """What is wrong with a checkpoint's folder by its own manifest, or None. `deep` also checks digests."""
    try:
        files = json.loads((path / MANIFEST).read_bytes())["files"]
        for name, entry in files.items():
            if (path / name).stat().st_size != entry["size"]:
                return f"the size of {name} differs from the manifest"
            if deep:
                with (path / name).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                        return f"the SHA-256 of {name} differs from the manifest"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"its {MANIFEST} cannot be read"
    return None
