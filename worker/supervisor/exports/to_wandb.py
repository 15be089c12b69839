"""Sends a job to a Weights & Biases server: a run with its curves, configuration and verdict.

By the requests that its client makes, and not by the client itself: that returns as if all was well when the server
refuses the curves, and connects from a program of its own that no audit hook sees. Lines of the history have numbers,
so that sending again writes the same lines again. The run's id is the job's.
"""

import json
from collections.abc import Mapping
from typing import Final

import httpx2

from app.exports.destinations import Destination
from app.jsontypes import JsonDict
from worker.supervisor.exports.tracked_job import TrackedJob
from worker.supervisor.exports.tracking import BATCH, TrackingServer, client
from worker.supervisor.sources.arriving import SourceRefused

_UPSERT: Final = """
mutation UpsertRun($run: String!, $project: String!, $entity: String!, $shown: String!, $config: JSONString,
                   $summary: JSONString, $tags: [String!]) {
  upsertBucket(input: {name: $run, modelName: $project, entityName: $entity, displayName: $shown, config: $config,
                       summaryMetrics: $summary, tags: $tags}) {
    bucket { name project { name entity { name } } }
  }
}
"""
#: The service's own pages are at another host than its interface.
_PAGES: Final = {"https://api.wandb.ai": "https://wandb.ai"}
_HISTORY, _SUMMARY = "wandb-history.jsonl", "wandb-summary.json"


def send(destination: Destination, job: TrackedJob, *, secret: Mapping[str, str] | None, name: str) -> JsonDict:
    """Returns the run. Raises SourceRefused or Later."""
    entity, _, project = destination.path.partition("/")
    auth = httpx2.BasicAuth("api", secret["token"]) if secret else None
    with client(destination.place, auth=auth) as connected:
        server = TrackingServer(connected, name, kind="wandb", called="Weights & Biases")
        _upsert(server, entity, project, job)

        history = [json.dumps(line) for line in lines(job)]
        stream = f"/files/{entity}/{project}/{job.id}/file_stream"
        for start in range(0, len(history), BATCH):
            chunk = {"offset": start, "content": history[start : start + BATCH]}
            server.ask("POST", stream, json={"files": {_HISTORY: chunk}})
        done = {"files": {_SUMMARY: {"offset": 0, "content": [json.dumps(summary(job))]}}}
        server.ask("POST", stream, json=done | {"complete": True, "exitcode": int(not job.succeeded)})
    pages = _PAGES.get(destination.place, destination.place)
    return {"url": f"{pages}/{entity}/{project}/runs/{job.id}", "run_id": job.id}


def lines(job: TrackedJob) -> list[JsonDict]:
    """The history: a line a step, with the names that the pages know."""
    began = job.started / 1000
    return [values | {"_step": step, "_timestamp": began, "_runtime": 0} for step, values in job.by_step()]


def summary(job: TrackedJob) -> JsonDict:
    """The last value of each curve, and what was proved."""
    last: JsonDict = {}
    for step, values in job.by_step():
        last |= values | {"_step": step}
    return last | job.facts


def _upsert(server: TrackingServer, entity: str, project: str, job: TrackedJob) -> None:
    variables = {
        "run": job.id,
        "project": project,
        "entity": entity,
        "shown": job.name,
        "config": json.dumps({key: {"value": value} for key, value in job.configuration.items()}),
        "summary": json.dumps(summary(job)),
        "tags": ["permafrost"],
    }
    answer = server.ask("POST", "/graphql", json={"query": _UPSERT, "variables": variables}) or {}
    if not ((answer.get("data") or {}).get("upsertBucket") or {}).get("bucket"):
        host = server.client.base_url.host
        raise SourceRefused(f"{host} made no run, and does not say why", code="destination_refused")
