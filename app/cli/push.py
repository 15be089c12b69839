"""`permafrost push`: sends a job's result to a hub, an object store or a tracking server."""

import time
from typing import Annotated

import typer

from app.cli.output import AsJson, print_json
from app.cli.service import Server, ask, connect
from app.jsontypes import JsonDict

_LOOK_SECONDS = 1.0


def push(
    job: Annotated[str, typer.Argument(help="Id of the job, ftjob-…")],
    destination: Annotated[
        str, typer.Argument(help="hf://owner/name, s3://bucket/prefix, or a tracker such as mlflow://host/experiment.")
    ],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has arrived, or was given up.")] = True,
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """Send a job's result. Exit code 1: it was given up; the message says why."""
    with connect(server) as client:
        path = f"fine_tuning/jobs/{job}/exports"
        export = ask(client, "POST", path, json={"destination": destination})
        said = None
        while wait and export["status"] in ("waiting", "pending"):
            if export["error"] and export["error"] != said:
                typer.echo(f"not yet: {export['error']}; it is tried again, Ctrl-C leaves it to the service", err=True)
                said = export["error"]
            time.sleep(_LOOK_SECONDS)
            export = next(each for each in ask(client, "GET", path)["data"] if each["id"] == export["id"])
    if as_json:
        print_json(export)
    else:
        print(_sentence(export))
    if export["status"] in ("failed", "dropped"):
        raise SystemExit(1)


def _sentence(export: JsonDict) -> str:
    where = (export["receipt"] or {}).get("url") or export["destination"]
    reason = f": {export['error']}" if export["status"] == "failed" else ""
    return f"{export['id']} {export['status']}, {where}{reason}"
