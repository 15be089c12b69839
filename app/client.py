"""The command's own client: submit, watch and preview over HTTP, as any other tool would."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.settings import Settings

Server = Annotated[
    str, typer.Option("--server", envvar="PERMAFROST_SERVER", help="Base URL; absent: from the settings.")
]
Model = Annotated[str, typer.Option("--model", help="A model's id, or a model spec as JSON.")]
Policy = Annotated[str, typer.Option("--policy", help="A freeze policy as JSON, or @file.json.")]
ENDED = {"succeeded", "failed", "cancelled"}


def submit(
    training_file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL, CSV or Parquet.")],
    model: Model,
    policy: Policy = "{}",
    hyperparameters: Annotated[str, typer.Option("--hyperparameters", help="As JSON.")] = "{}",
    seed: int | None = None,
    suffix: str | None = None,
    follow: Annotated[bool, typer.Option("--watch", help="Stay until the job ends.")] = False,
    server: Server = "",
) -> None:
    """Upload a file and start a job on it. Prints the job's id."""
    body: dict[str, Any] = {"model": _model(model), "seed": seed, "suffix": suffix}
    body |= {"freeze_policy": _json(policy, "--policy"), "hyperparameters": _json(hyperparameters, "--hyperparameters")}
    with _connect(server) as client, training_file.open("rb") as file:
        uploaded = _ask(
            client, "POST", "files", data={"purpose": "fine-tune"}, files={"file": (training_file.name, file)}
        )
        body["training_file"] = uploaded["id"]
        job = _ask(
            client, "POST", "fine_tuning/jobs", json={key: value for key, value in body.items() if value is not None}
        )
        print(job["id"], flush=True)
        if follow:
            raise SystemExit(_follow(client, job["id"]))


def watch(job: Annotated[str, typer.Argument(help="ftjob-…")], server: Server = "") -> None:
    """Show a job's progress until it ends. Exit code 0: succeeded and verified."""
    with _connect(server) as client:
        raise SystemExit(_follow(client, job))


def preview(model: Model, policy: Policy, server: Server = "") -> None:
    """Show what a policy would freeze in a model, without training."""
    body: dict[str, Any] = {"model": _model(model), "freeze_policy": _json(policy, "--policy"), "limit": 10_000}
    with _connect(server) as client:
        found = _ask(client, "POST", "freeze_policies/preview", json=body)
    table = Table("tensor", "shape", "action", "by rule")
    for row in found["data"]:
        table.add_row(row["name"], "×".join(map(str, row["shape"])), row["action"], row["rule"])
    console = Console()
    console.print(table)
    counts = found["freeze_plan"]
    for side in ("frozen", "trainable"):
        console.print(f"{side}: {counts[side]['tensors']:,} tensors, {counts[side]['elements']:,} elements")
    for warning in found["warnings"]:
        console.print(f"warning: {warning}")


def _follow(client: httpx2.Client, job_id: str) -> int:
    console = Console(stderr=True)
    job = _ask(client, "GET", f"fine_tuning/jobs/{job_id}")
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task(_describe(job), total=100, completed=job["progress"]["percent"] or 0)
        tag = ""
        while job["status"] not in ENDED:
            job, tag = _news(client, job, tag)
            bar.update(task, description=_describe(job), completed=job["progress"]["percent"] or 0)
    return _conclude(console, job)


def _news(client: httpx2.Client, job: dict[str, Any], tag: str) -> tuple[dict[str, Any], str]:
    """The job once it has changed, or as it was after a while. A service that is away for a moment is waited for."""
    headers = {"prefer": "wait=20", "if-none-match": tag}
    try:
        answer = client.get(f"fine_tuning/jobs/{job['id']}", headers=headers, timeout=60)
    except httpx2.TransportError:
        time.sleep(2)
        return job, ""
    return (job, tag) if answer.status_code == 304 else (_checked(answer), answer.headers["etag"])


def _conclude(console: Console, job: Mapping[str, Any]) -> int:
    verdict = job["evidence"]["verdict"]
    model = f", model {job['fine_tuned_model']}" if job["fine_tuned_model"] else ""
    console.print(f"{job['status']}, evidence {verdict}{model}")
    if job["error"]:
        console.print(job["error"]["message"])
    for violation in job["evidence"]["violations"]:
        by = violation["operation"] or violation["explanation"] or violation["reason"]
        console.print(f"violation: {violation['name']} at step {violation['first_bad_step']}{f', {by}' if by else ''}")
    return 0 if job["status"] == "succeeded" and verdict == "verified" else 1


def _describe(job: Mapping[str, Any]) -> str:
    progress = job["progress"]
    if job["status"] == "queued" and job["queue_position"]:
        return f"queued, number {job['queue_position']}"
    if progress["total_steps"]:
        return f"{job['status']}, step {progress['step']} of {progress['total_steps']}"
    return str(job["status"])


def _connect(server: str) -> httpx2.Client:
    settings = Settings()
    base = (server or f"http://{settings.host}:{settings.port}").rstrip("/").removesuffix("/v1")
    key = os.environ.get("PERMAFROST_API_KEY")
    return httpx2.Client(base_url=f"{base}/v1/", headers={"authorization": f"Bearer {key}"} if key else {}, timeout=30)


def _ask(client: httpx2.Client, method: str, path: str, **content: Any) -> dict[str, Any]:
    try:
        return _checked(client.request(method, path, **content))
    except httpx2.TransportError as error:
        raise SystemExit(f"{client.base_url} does not answer ({error}); is `permafrost serve` running?") from None


def _checked(answer: httpx2.Response) -> dict[str, Any]:
    if answer.is_success:
        body: dict[str, Any] = answer.json()
        return body
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        raise SystemExit(f"{answer.url} answered {answer.status_code}") from None
    for each in error.get("errors", []):
        print(
            f"  line {each['line']}: {each['message']}" if each.get("line") else f"  {each['message']}", file=sys.stderr
        )
    raise SystemExit(error["message"])


def _model(text: str) -> Any:
    return _json(text, "--model") if text.lstrip().startswith(("{", "@")) else text


def _json(text: str, option: str) -> Any:
    try:
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{option} is not JSON: {error}") from None
