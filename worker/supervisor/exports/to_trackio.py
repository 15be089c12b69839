"""Sends a job to a Trackio server: a run with its curves, and parameters and verdict as its configuration.

By the server's HTTP interface, which its own client uses. Each point has an id, by which sending again adds nothing.
"""

from collections.abc import Mapping
from typing import Final

from app.exports.destinations import Destination
from app.jsontypes import JsonDict
from worker.supervisor.exports.tracked_job import TrackedJob
from worker.supervisor.exports.tracking import BATCH, TrackingServer, bearer, client
from worker.supervisor.sources.arriving import SourceRefused

#: The version of the interface that is spoken here.
_API: Final = 1
_TOKEN: Final = "x-trackio-write-token"


def send(destination: Destination, job: TrackedJob, *, secret: Mapping[str, str] | None, name: str) -> JsonDict:
    """Returns the run. Raises SourceRefused or Later."""
    auth = bearer(_TOKEN, secret["token"]) if secret else None
    with client(destination.place, auth=auth) as connected:
        server = TrackingServer(connected, name, kind="trackio", called="Trackio", login_words="write_token")
        if (server.ask("GET", "/version") or {}).get("api_version") != _API:
            message = f"{connected.base_url.host} is no Trackio server that speaks version {_API} of its interface"
            raise SourceRefused(message, code="destination_refused")
        entries = _entries(destination.path, job)
        for start in range(0, len(entries), BATCH):
            logs = {"logs": entries[start : start + BATCH], "hf_token": None}
            server.ask("POST", "/api/bulk_log", json={"args": [], "kwargs": logs})
    return {"url": f"{destination.place}/?project={destination.path}", "run": job.name, "run_id": job.id}


def _entries(project: str, job: TrackedJob) -> list[JsonDict]:
    """A point a step. A job without any, such as one that failed early, has one that says how it ended."""
    rows = list(job.by_step()) or [(0, {})]
    run = {"project": project, "run": job.name, "run_id": job.id, "config": job.configuration}
    return [run | {"metrics": values, "step": step, "log_id": f"{job.id}:{step}"} for step, values in rows]
