"""The command's own client: submit, watch and preview over HTTP, as any other tool would."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer
from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.settings import Settings

Server = Annotated[
    str, typer.Option("--server", envvar="PERMAFROST_SERVER", help="Base URL; absent: from the settings.")
]
Model = Annotated[str, typer.Option("--model", help="A model's id; or a model spec as JSON, or @file.json.")]
Policy = Annotated[str, typer.Option("--policy", help="A freeze policy as JSON, or @file.json.")]
EXAMPLE = """'{"freeze": ["bert.**"]}'"""
Task = Annotated[
    str | None,
    typer.Option(
        "--task", help="Beside a model's id, such as text-classification; absent: from the file, or the model."
    ),
]
ENDED = {"succeeded", "failed", "cancelled"}
SHOWN_PROBLEMS = 20
#: Larger uploads say that they are under way.
LARGE = 10_000_000
WIDE = 240


def submit(
    training_file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL, CSV or Parquet.")],
    model: Model,
    policy: Policy = "{}",
    hyperparameters: Annotated[str, typer.Option("--hyperparameters", help="As JSON.")] = "{}",
    task: Task = None,
    seed: Annotated[int | None, typer.Option(help="Where chance begins; absent: drawn.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the result's name.")] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Stay until the job ends.")] = False,
    server: Server = "",
) -> None:
    """Upload a file and start a job on it. Prints the job's id on standard output, and nothing else there."""
    body: dict[str, Any] = {"model": _model(model), "task": task, "seed": seed, "suffix": suffix}
    body |= {
        "freeze_policy": _json(policy, "--policy", EXAMPLE),
        "hyperparameters": _json(hyperparameters, "--hyperparameters"),
    }
    with _connect(server) as client, training_file.open("rb") as file:
        if (bytes_ := training_file.stat().st_size) > LARGE:
            print(f"uploading {training_file.name}, {bytes_ / 1e6:,.0f} MB", file=sys.stderr)
        uploaded = _ask(
            client, "POST", "files", data={"purpose": "fine-tune"}, files={"file": (training_file.name, file)}
        )
        body["training_file"] = uploaded["id"]
        job = _ask(
            client, "POST", "fine_tuning/jobs", json={key: value for key, value in body.items() if value is not None}
        )
        print(job["id"], flush=True)
        page = f"{str(client.base_url).removesuffix('/v1/')}/jobs/{job['id']}"
        if follow:
            print(page, file=sys.stderr)
            raise SystemExit(_follow(client, job["id"]))
        print(f"{page}\npermafrost watch {job['id']} shows its progress", file=sys.stderr)


def watch(job: Annotated[str, typer.Argument(help="ftjob-…")], server: Server = "") -> None:
    """Show a job's progress until it ends. Exit code 0: succeeded and verified; 1: anything else; 130: Ctrl-C."""
    with _connect(server) as client:
        raise SystemExit(_follow(client, job))


def preview(model: Model, policy: Policy, task: Task = None, server: Server = "") -> None:
    """Show what a policy would freeze in a model, without training."""
    body: dict[str, Any] = {
        "model": _model(model),
        "freeze_policy": _json(policy, "--policy", EXAMPLE),
        "limit": 10_000,
    }
    body |= {"task": task} if task else {}
    with _connect(server) as client:
        found = _ask(client, "POST", "freeze_policies/preview", json=body)
    # A pipe is no narrow terminal: names stay whole there, for grep.
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else WIDE)
    table = Table("tensor", "shape", "action", "by rule", box=None if not sys.stdout.isatty() else HEAVY_HEAD)
    for row in found["data"]:
        table.add_row(row["name"], "×".join(map(str, row["shape"])), row["action"], row["rule"])
    console.print(table)
    counts = found["freeze_plan"]
    for side in ("frozen", "trainable"):
        tensors, elements = counts[side]["tensors"], counts[side]["elements"]
        console.print(f"{side}: {_count(tensors, 'tensor')}, {_count(elements, 'element')}")
    for warning in found["warnings"]:
        console.print(f"warning: {warning}")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _follow(client: httpx2.Client, job_id: str) -> int:
    """In a terminal a bar; into a file or a pipe a line for each state and each tenth of the way."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    job = _ask(client, "GET", f"fine_tuning/jobs/{job_id}")
    try:
        job = _bar(client, console, job) if console.is_terminal else _lines(client, console, job)
    except KeyboardInterrupt:
        console.print(f"\nno longer watched; the job goes on. Again: permafrost watch {job_id}")
        return 130
    return _conclude(console, job)


def _bar(client: httpx2.Client, console: Console, job: dict[str, Any]) -> dict[str, Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task(_describe(job), total=100, completed=job["progress"]["percent"] or 0)
        for news in _until_it_ends(client, job):
            job = news
            bar.update(task, description=_describe(job), completed=job["progress"]["percent"] or 0)
    return job


def _lines(client: httpx2.Client, console: Console, job: dict[str, Any]) -> dict[str, Any]:
    told = None
    for news in _until_it_ends(client, job):
        job = news
        place = (job["status"], job["queue_position"], (job["progress"]["percent"] or 0) // 10)
        if place != told and job["status"] not in ENDED:
            console.print(_describe(job))
        told = place
    return job


def _until_it_ends(client: httpx2.Client, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield job
    tag = ""
    while job["status"] not in ENDED:
        job, tag = _news(client, job, tag)
        yield job


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
        for each in _problems(job["error"])[:SHOWN_PROBLEMS]:
            console.print(each)
    for violation in job["evidence"]["violations"]:
        by = violation["operation"] or violation["explanation"] or violation["reason"]
        console.print(f"violation: {violation['name']} at step {violation['first_bad_step']}{f', {by}' if by else ''}")
    return 0 if job["status"] == "succeeded" and verdict == "verified" else 1


def _describe(job: Mapping[str, Any]) -> str:
    progress = job["progress"]
    status = job["status"].replace("_", " ")
    if job["status"] == "queued" and job["queue_position"]:
        return f"queued, number {job['queue_position']}"
    if job["status"] == "paused":
        return f"paused until POST /v1/fine_tuning/jobs/{job['id']}/resume, or Resume on its page"
    if progress["total_steps"]:
        return f"{status}, step {progress['step']} of {progress['total_steps']}"
    return str(status)


def _connect(server: str) -> httpx2.Client:
    settings = Settings()
    base = (server or f"http://{settings.host}:{settings.port}").rstrip("/").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{server!r} is no URL such as http://127.0.0.1:8000", param_hint="--server")
    key = os.environ.get("PERMAFROST_API_KEY")
    return httpx2.Client(base_url=f"{base}/v1/", headers={"authorization": f"Bearer {key}"} if key else {}, timeout=30)


def _ask(client: httpx2.Client, method: str, path: str, **content: Any) -> dict[str, Any]:
    try:
        return _checked(client.request(method, path, **content))
    except httpx2.TransportError as error:
        where = str(client.base_url).removesuffix("/v1/")
        hint = "is `permafrost serve` running there? --server or PERMAFROST_SERVER name another"
        raise SystemExit(f"{where} does not answer ({error}); {hint}") from None


def _checked(answer: httpx2.Response) -> dict[str, Any]:
    if answer.is_success:
        body: dict[str, Any] = answer.json()
        return body
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        raise SystemExit(f"{answer.url} answered {answer.status_code}, and not as Permafrost does") from None
    for each in _problems(error):
        print(each, file=sys.stderr)
    hint = "\nPERMAFROST_API_KEY is where this command looks for a key" if answer.status_code == 401 else ""
    raise SystemExit(error["message"] + hint)


def _problems(error: Mapping[str, Any]) -> list[str]:
    """A line for each; none for a single one that the message tells already."""
    found = error.get("errors", [])
    if len(found) == 1 and found[0]["message"] in error["message"]:
        return []
    return [
        f"  line {each['line']}: {each['message']}" if each.get("line") else f"  {each['message']}" for each in found
    ]


def _model(text: str) -> Any:
    return _json(text, "--model") if text.lstrip().startswith(("{", "@")) else text


def _json(text: str, option: str, example: str = "") -> Any:
    """An option's value, or the file that it names; what is wrong with it is a mistake of the command line, code 2."""
    try:
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except OSError as error:
        raise typer.BadParameter(f"{text[1:]}: {error.strerror}", param_hint=option) from None
    except ValueError as error:
        hint = f"; such as {example}" if example else ""
        raise typer.BadParameter(f"not JSON: {error}{hint}", param_hint=option) from None
