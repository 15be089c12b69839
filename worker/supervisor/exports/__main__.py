"""The process that sends one export: `python -m worker.supervisor.exports`."""

import json
import sys
from pathlib import Path

from app.exports.destinations import parse
from app.jsontypes import JsonDict
from app.webhooks.addresses import Reach
from worker.supervisor.exports import to_hub, to_mlflow, to_store, to_trackio, to_wandb, to_wandb_offline
from worker.supervisor.exports.content import DESCRIPTION, RESULT
from worker.supervisor.exports.tracked_job import TrackedJob
from worker.supervisor.process.fetcher import take
from worker.supervisor.process.tied import LIFELINE, die_with
from worker.supervisor.sources.answer import write_answer
from worker.supervisor.sources.network import confine


def main(answer: str, pipe: str, *arguments: str) -> None:
    die_with(LIFELINE)
    folder, allowed, name, offline = arguments
    secret = take(pipe)
    description = json.loads((Path(folder) / DESCRIPTION).read_text())
    message = "results may not be sent to the address of this destination (see PERMAFROST_FETCH_ALLOW)"
    write_answer(
        answer,
        lambda: _send(Path(folder) / RESULT, description, secret, allowed=allowed, name=name, offline=Path(offline)),
        address_refused=(message, "invalid_destination"),
        later="destination_unavailable",
    )


def _send(
    result: Path, description: JsonDict, secret: dict[str, str] | None, *, allowed: str, name: str, offline: Path
) -> JsonDict:
    destination = parse(description["destination"], param="destination")
    job = TrackedJob.from_json(description["job"])
    if destination.kind == "hub":  # at the operator's own choice of a hub
        token = (secret or {}).get("token")
        return to_hub.send(destination, result, job=job.id, token=token, name=name)
    if destination.offline:
        return to_wandb_offline.send(destination, job, into=offline)
    confine(Reach.parse(allowed))
    if destination.kind == "s3":
        return to_store.send(destination, result, keys=secret, name=name)
    if destination.kind == "trackio":
        return to_trackio.send(destination, job, secret=secret, name=name)
    if destination.kind == "wandb":
        return to_wandb.send(destination, job, secret=secret, name=name)
    return to_mlflow.send(destination, result, job, secret=secret, name=name)


if __name__ == "__main__":
    main(*sys.argv[1:])
