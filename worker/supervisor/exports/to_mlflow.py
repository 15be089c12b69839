"""Sends a job to MLflow: a run with its parameters, curves and verdict, and a version of a registered model.

By MLflow's REST interface. The run has the job's id as a tag, by which sending again finds it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx2

from app.exports.destinations import Destination
from app.jsontypes import JsonDict
from worker.supervisor.exports.content import ATTESTATION
from worker.supervisor.exports.tracked_job import TrackedJob, finite
from worker.supervisor.exports.tracking import BATCH, TrackingServer, bearer, client
from worker.supervisor.sources.arriving import SourceRefused

TAG: Final = "permafrost.job"
_API: Final = "/api/2.0/mlflow"
_PROXIED: Final = "mlflow-artifacts:/"
_ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts/"
_EXISTS: Final = "RESOURCE_ALREADY_EXISTS"
_MISSING: Final = "RESOURCE_DOES_NOT_EXIST"
#: What one request to log may hold, beside points.
_PARAMS: Final = 100
_PARAM_CHARACTERS: Final = 6000
_CHUNK: Final = 1 << 20


def send(
    destination: Destination, result: Path, job: TrackedJob, *, secret: Mapping[str, str] | None, name: str
) -> JsonDict:
    """Returns the run, and the version of the model. Raises SourceRefused or Later."""
    with client(destination.place, auth=_auth(secret)) as connected:
        server = _Mlflow(TrackingServer(connected, name))
        experiment = _experiment(server, destination.path)
        run = _run(server, experiment, job)
        run_id, artifacts = str(run["run_id"]), str(run["artifact_uri"])
        for batch in _batches(job):
            server.post("runs/log-batch", {"run_id": run_id, **batch})

        version = None
        if artifacts.startswith(_PROXIED):
            _upload(server, artifacts, result, everything=destination.model is not None)
        if destination.model is not None and job.model:
            version = _version(server, destination.model, run_id, artifacts, job)
        status = "FINISHED" if job.succeeded else "FAILED"
        server.post("runs/update", {"run_id": run_id, "status": status, "end_time": job.ended})
    url = f"{destination.place}/#/experiments/{experiment}/runs/{run_id}"
    return {"url": url, "run_id": run_id} | ({"model": destination.model, "version": version} if version else {})


def _auth(secret: Mapping[str, str] | None) -> Any:
    """A bearer's token, or with a user name its password."""
    if not secret:
        return None
    if username := secret.get("username"):
        return httpx2.BasicAuth(username, secret["token"])
    return bearer("authorization", f"Bearer {secret['token']}")


@dataclass(frozen=True, slots=True)
class _Mlflow:
    """MLflow's interface at one server."""

    asked: TrackingServer

    def post(self, path: str, body: JsonDict, *, unless: str = "") -> JsonDict | None:
        """The answer; None where the server refuses with the code `unless`."""
        return self.asked.ask("POST", f"{_API}/{path}", unless=unless, json=body)

    def get(self, path: str, params: Mapping[str, str], *, unless: str = "") -> JsonDict | None:
        return self.asked.ask("GET", f"{_API}/{path}", unless=unless, params=params)

    def put_file(self, path: str, file: Path) -> None:
        with file.open("rb") as source:
            content = iter(lambda: source.read(_CHUNK), b"")
            headers = {"content-length": str(file.stat().st_size), "content-type": "application/octet-stream"}
            self.asked.ask("PUT", _ARTIFACTS + quote(path), content=content, headers=headers)


def _experiment(server: _Mlflow, name: str) -> str:
    found = server.get("experiments/get-by-name", {"experiment_name": name}, unless=_MISSING)
    if found is None:
        made = server.post("experiments/create", {"name": name}, unless=_EXISTS)
        if made is not None:
            return str(made["experiment_id"])
        found = server.get("experiments/get-by-name", {"experiment_name": name}) or {}
    return str(found["experiment"]["experiment_id"])


def _run(server: _Mlflow, experiment: str, job: TrackedJob) -> JsonDict:
    """The run of this job: an earlier one, or a new one."""
    wanted = {"experiment_ids": [experiment], "filter": f"tags.\"{TAG}\" = '{job.id}'", "max_results": 1}
    found = (server.post("runs/search", wanted) or {}).get("runs") or []
    if found:
        return dict(found[0]["info"])
    body = {
        "experiment_id": experiment,
        "run_name": job.name,
        "start_time": job.started,
        "tags": [{"key": key, "value": value} for key, value in job.facts.items()],
    }
    return dict((server.post("runs/create", body) or {})["run"]["info"])


def _batches(job: TrackedJob) -> Iterator[JsonDict]:
    """Parameters and curves, as many at once as MLflow takes; a point that is there already stays one."""
    params = [{"key": key, "value": value[:_PARAM_CHARACTERS]} for key, value in job.params.items()]
    points = [
        {"key": name, "value": value, "step": point["step"], "timestamp": job.started}
        for point in job.metrics
        for name, value in finite(point).items()
    ]
    for start in range(0, len(params), _PARAMS):
        yield {"params": params[start : start + _PARAMS]}
    for start in range(0, len(points), BATCH):
        yield {"metrics": points[start : start + BATCH]}


def _upload(server: _Mlflow, artifacts: str, result: Path, *, everything: bool) -> None:
    root = artifacts.removeprefix(_PROXIED).strip("/")
    for path in sorted(result.rglob("*")):
        if path.is_file() and (everything or path.name in (ATTESTATION, "README.md")):
            server.put_file(f"{root}/result/{path.relative_to(result)}", path)


def _version(server: _Mlflow, model: str, run_id: str, artifacts: str, job: TrackedJob) -> str:
    """The version of the registered model that this run made."""
    if not artifacts.startswith(_PROXIED):
        message = f"the server keeps artifacts at {artifacts.partition(':')[0]}: and does not take them itself"
        raise SourceRefused(f"{message}; start it with --serve-artifacts", code="destination_refused")
    server.post("registered-models/create", {"name": model}, unless=_EXISTS)
    asked = {"filter": f"run_id = '{run_id}'"}
    for version in (server.get("model-versions/search", asked) or {}).get("model_versions") or []:
        if version["name"] == model:
            return str(version["version"])
    tags = {"permafrost.verdict": job.verdict or "none", TAG: job.id, "permafrost.model": job.model}
    body = {
        "name": model,
        "source": f"{artifacts}/result",
        "run_id": run_id,
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
    }
    return str((server.post("model-versions/create", body) or {})["model_version"]["version"])
