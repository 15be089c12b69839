"""Gauges of the workers, and of what they train now, from the rows that they write."""

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import now
from app.jobs.queue.states import LEASED
from app.jobs.queue.tables import Job, Worker
from app.jobs.queue.workers import PRESENT

_RUNNING: Final = select(Job.devices, Job.progress).where(Job.lease_until.is_not(None), Job.status.in_(LEASED))
_SPEEDS: Final = {
    "steps_per_second": "Optimizer steps a second of all running jobs",
    "tokens_per_second": "Tokens a second of all running jobs, without padding",
    "examples_per_second": "Examples a second of all running jobs",
}


def gauges_of_workers(session: Session) -> Iterator[GaugeMetricFamily]:
    """Of all workers together; the memory of devices by worker and device."""
    alive = session.scalars(select(Worker).where(Worker.seen_at > now(session) - PRESENT)).all()
    running = [(devices, dict(progress or {})) for devices, progress in session.execute(_RUNNING)]
    progress = [each for _, each in running]

    yield from _devices(alive, busy=sum(devices for devices, _ in running))
    for name, meaning in _SPEEDS.items():
        yield GaugeMetricFamily(f"permafrost_{name}", meaning, value=sum(each.get(name) or 0.0 for each in progress))
    share = max((each.get("witness_share") or 0.0 for each in progress), default=0.0)
    meaning = "Part of its training time that the witness takes, of the running job in which it is largest"
    yield GaugeMetricFamily("permafrost_witness_share", meaning, value=share)
    yield from _kept_prefixes([each.get("prefix_cache") or {} for each in progress])


def _devices(alive: Any, *, busy: int) -> Iterator[GaugeMetricFamily]:
    devices = sum(sum(dict(worker.products).values()) or worker.devices for worker in alive)
    yield GaugeMetricFamily("permafrost_workers", "Workers that are alive", value=len(alive))
    yield GaugeMetricFamily("permafrost_devices", "Devices of these workers", value=devices)
    yield GaugeMetricFamily("permafrost_devices_busy", "Devices that run a job", value=busy)

    labels = ["worker", "device"]
    used = GaugeMetricFamily("permafrost_device_memory_used_bytes", "Memory in use on a CUDA device", labels=labels)
    total = GaugeMetricFamily("permafrost_device_memory_bytes", "Memory of a CUDA device", labels=labels)
    for worker in alive:
        for device, (in_use, size) in sorted(worker.memory.items()):
            used.add_metric([worker.id, device], in_use)
            total.add_metric([worker.id, device], size)
    yield from (used, total)


def _kept_prefixes(caches: list[dict[str, Any]]) -> Iterator[GaugeMetricFamily]:
    in_use = [cache for cache in caches if cache.get("in_use")]
    reused = sum(cache.get("reused") or 0 for cache in in_use)
    meaning = "Running jobs that compute their frozen layers once for each example"
    yield GaugeMetricFamily("permafrost_prefix_cache_jobs", meaning, value=len(in_use))
    meaning = "Examples of running jobs whose frozen layers an earlier attempt or job had computed"
    yield GaugeMetricFamily("permafrost_prefix_cache_reused", meaning, value=reused)
