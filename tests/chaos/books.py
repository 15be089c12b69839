"""The check of the books after every fault: nothing lost, nothing doubled, nothing left behind, the same bits."""

import os
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from sqlalchemy import func, select

from app.evidence.tables import Evidence, Parameter
from app.files.tables import File
from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Job
from app.models.tables import Model
from app.storage.blobs import Storage
from tests.chaos.cluster import Cluster, eventually, processes_in

ENDINGS = ("Job succeeded", "Job failed: ", "Job cancelled", "failed after ")


@dataclass
class Balance:
    """What the score is made of."""

    accepted: int = 0
    ended: int = 0
    doubled: int = 0
    resumed: int = 0
    equal: int = 0
    problems: list[str] = field(default_factory=list)


def balance(cluster: Cluster, *, undisturbed: str) -> Balance:
    """Of all jobs since the last balance. Leftovers get the time that maintenance takes to remove them."""
    found = Balance()
    for job_id in cluster.jobs:
        _job(cluster, job_id, undisturbed, found)
    eventually(lambda: not leftovers(cluster), says=lambda: f"left behind: {leftovers(cluster)}\n{cluster.log()}")
    cluster.jobs.clear()
    return found


def _job(cluster: Cluster, job_id: str, undisturbed: str, found: Balance) -> None:
    job, events = cluster.row(job_id), cluster.events(job_id)
    found.accepted += 1
    found.ended += job.status in TERMINAL

    def hold(fact: bool, what: str) -> None:
        if not fact:
            found.problems.append(f"{job_id}: {what}\n{cluster.story(job_id)}")

    hold(job.status in TERMINAL, f"it has not ended, it is {job.status}")
    numbers = [event.seq for event in events]
    hold(numbers == list(range(1, job.events_count + 1)), f"events have gaps or doubles: {numbers}")
    endings = [event.message for event in events if event.message.startswith(ENDINGS)]
    hold(len(endings) == 1, f"it ended {len(endings)} times")
    hold(job.lease_owner is None and job.lease_until is None, f"a lease is left: {job.lease_owner}")
    doubled = [path.read_text() for path in cluster.root.glob(f"gates-*/{job_id}.doubled")]
    hold(not doubled, f"two trainers lived at once: {doubled}")
    found.doubled += bool(doubled) or len(endings) > 1
    if job.status == "succeeded":
        root = _evidence(cluster, job, hold)
        hold(root == undisturbed, "its bits are not those of the undisturbed run")
        if job.attempt > 1:
            found.resumed += 1
            found.equal += root == undisturbed


def _evidence(cluster: Cluster, job: Job, hold: object) -> str | None:
    """The result root; and whether the proof and the result that belong to a success are complete."""
    assert callable(hold)
    storage = Storage(cluster.settings.storage)
    with cluster.db.read() as session:
        evidence = session.scalar(select(Evidence).where(Evidence.job_id == job.id))
        rows = session.scalar(select(func.count()).where(Parameter.job_id == job.id))
        model = session.get(Model, job.fine_tuned_model)
        files = list(session.scalars(select(File).where(File.id.in_(job.result_files))))
        hold(evidence is not None and evidence.verdict == "verified", "its evidence is not there or not verified")
        hold(rows == 2, f"it has {rows} evidence rows for 2 tensors")
        hold(model is not None, "its model is not there")
        hold(len(files) == len(job.result_files) > 0, "a result file is not there")
        blobs = [file.blob for file in files]
        blobs += [each["blob"] for each in (model.files if model else []) if each["blob"] is not None]
        hold(all(storage.exists(key) for key in blobs), "a blob of its result is not there")
        return evidence.result_root if evidence is not None else None


def leftovers(cluster: Cluster) -> list[str]:
    """Processes, folders and temporary files that belong to no job under way; leases that nobody holds."""
    settings = cluster.settings
    homes = [f"process {each.pid} in {cwd}" for each, cwd in processes_in(settings.work) if cwd.endswith("/home")]
    found = homes[len([each for each in cluster.workers if each.popen.poll() is None]) :]
    found += [f"process {each.pid} in {cwd}" for each, cwd in processes_in(settings.work) if not cwd.endswith("/home")]
    found += [str(path) for path in settings.work.glob("ftjob-*")]
    found += [str(path) for path in (settings.home / "blobs" / "incoming").iterdir()]
    found += temporary_files(settings.home)
    with cluster.db.read() as session:
        leased = select(Job.id).where(Job.status.in_(TERMINAL), Job.lease_until.is_not(None))
        found += [f"the lease of {job_id}" for job_id in session.scalars(leased)]
    return found


def temporary_files(folder: Path) -> list[str]:
    """Every file or folder under `folder` with a temporary name; one that disappears during the walk is passed over."""
    return [f"{parent}/{name}" for parent, *names in os.walk(folder) for name in chain(*names) if name.endswith(".tmp")]
