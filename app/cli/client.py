"""`permafrost submit`, `watch` and `preview`: clients of the HTTP API, like any other tool."""

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

from app.evidence.causes import Cause, by_cause
from app.evidence.format.strict import JsonError, read_json, repeated_keys
from app.jsontypes import JsonDict
from app.settings import Settings

Server = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="PERMAFROST_SERVER",
        help="Base URL of the service; default: PERMAFROST_HOST and PERMAFROST_PORT.",
    ),
]
Model = Annotated[str, typer.Option("--model", help="Model id, or a model spec as JSON or @file.json.")]
Policy = Annotated[str, typer.Option("--policy", help="Freeze policy as JSON or @file.json.")]
EXAMPLE = """'{"freeze": ["bert.**"]}'"""
Task = Annotated[
    str | None,
    typer.Option(
        "--task", help="Task of a model given by id, such as text-classification; default: from file or model."
    ),
]
ENDED = {"succeeded", "failed", "cancelled"}
SHOWN_PROBLEMS = 20
#: Of the tensors of one violation.
SHOWN_NAMES = 3
#: Uploads of more bytes than this print a line while they run.
LARGE = 10_000_000
#: Columns of a table that is written to a pipe or a file.
WIDE = 240


def submit(
    training_file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL, CSV or Parquet.")],
    model: Model,
    policy: Policy = "{}",
    hyperparameters: Annotated[
        str, typer.Option("--hyperparameters", help="Hyperparameters as JSON or @file.json.")
    ] = "{}",
    task: Task = None,
    seed: Annotated[int | None, typer.Option(help="Random seed; default: chosen by the service.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the fine-tuned model's name.")] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Show progress until the job ends.")] = False,
    server: Server = "",
) -> None:
    """Upload a file and start a job on it. Prints only the job's id on standard output."""
    body: JsonDict = {"model": _model(model), "task": task, "seed": seed, "suffix": suffix}
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
        print(f"{page}\nto see its progress: permafrost watch {job['id']}", file=sys.stderr)


def watch(job: Annotated[str, typer.Argument(help="Id of the job, ftjob-…")], server: Server = "") -> None:
    """Show a job's progress until it ends. Exit code 0: succeeded and verified; 1: any other end; 130: Ctrl-C."""
    with _connect(server) as client:
        raise SystemExit(_follow(client, job))


def preview(model: Model, policy: Policy, task: Task = None, server: Server = "") -> None:
    """Show what a policy would freeze in a model, without training."""
    body: JsonDict = {
        "model": _model(model),
        "freeze_policy": _json(policy, "--policy", EXAMPLE),
        "limit": 10_000,
    }
    body |= {"task": task} if task else {}
    with _connect(server) as client:
        answer = _ask(client, "POST", "freeze_policies/preview", json=body)
    _print_preview(answer)


def _print_preview(answer: Mapping[str, Any]) -> None:
    # Written to a pipe, names are never cut, so that grep finds them.
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else WIDE)
    table = Table("tensor", "shape", "action", "by rule", box=None if not sys.stdout.isatty() else HEAVY_HEAD)
    for row in answer["data"]:
        table.add_row(row["name"], "×".join(map(str, row["shape"])), row["action"], row["rule"])
    console.print(table)

    counts = answer["freeze_plan"]
    for side in ("frozen", "trainable"):
        tensors, elements = counts[side]["tensors"], counts[side]["elements"]
        console.print(f"{side}: {_count(tensors, 'tensor')}, {_count(elements, 'element')}")
    for warning in answer["warnings"]:
        console.print(f"warning: {warning}")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _follow(client: httpx2.Client, job_id: str) -> int:
    """Show a progress bar in a terminal, else print a line per status and per 10 percent. Returns the exit code."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    job = _ask(client, "GET", f"fine_tuning/jobs/{job_id}")
    try:
        job = _bar(client, console, job) if console.is_terminal else _lines(client, console, job)
    except KeyboardInterrupt:
        console.print(f"\nstopped watching; the job goes on. To watch it again: permafrost watch {job_id}")
        return 130
    return _conclude(client, console, job)


def _bar(client: httpx2.Client, console: Console, job: JsonDict) -> JsonDict:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task(_describe(job), total=100, completed=job["progress"]["percent"] or 0)
        for latest in _until_it_ends(client, job):
            job = latest
            bar.update(task, description=_describe(job), completed=job["progress"]["percent"] or 0)
    return job


def _lines(client: httpx2.Client, console: Console, job: JsonDict) -> JsonDict:
    printed = None
    for latest in _until_it_ends(client, job):
        job = latest
        state = (job["status"], job["queue_position"], (job["progress"]["percent"] or 0) // 10)
        if state != printed and job["status"] not in ENDED:
            console.print(_describe(job))
        printed = state
    return job


def _until_it_ends(client: httpx2.Client, job: JsonDict) -> Iterator[JsonDict]:
    yield job
    tag = ""
    while job["status"] not in ENDED:
        job, tag = _poll(client, job, tag)
        yield job


def _poll(client: httpx2.Client, job: JsonDict, tag: str) -> tuple[JsonDict, str]:
    """Poll a job: it and its ETag, once it changed or 20 s passed. Waits 2 s for a service that is away."""
    headers = {"prefer": "wait=20", "if-none-match": tag}
    try:
        answer = client.get(f"fine_tuning/jobs/{job['id']}", headers=headers, timeout=60)
    except httpx2.TransportError:
        time.sleep(2)
        return job, ""
    return (job, tag) if answer.status_code == 304 else (_checked(answer), answer.headers["etag"])


def _conclude(client: httpx2.Client, console: Console, job: Mapping[str, Any]) -> int:
    """Print how the job ended and why; the last line is the reason of an exit code that is not 0."""
    verdict = job["evidence"]["verdict"]
    model = f", model {job['fine_tuned_model']}" if job["fine_tuned_model"] else ""
    evidence = "no evidence" if verdict == "none" else f"evidence {verdict}"
    console.print(f"{job['status']}, {evidence}{model}")
    if job["error"]:
        console.print(job["error"]["message"])
        for line in _problem_lines(job["error"])[:SHOWN_PROBLEMS]:
            console.print(line)
    for cause in by_cause(job["evidence"]["violations"]):
        console.print(f"violation: {_violation(cause)}")

    if job["status"] == "succeeded" and verdict == "verified":
        return 0
    console.print(f"exit code 1: {_reason(client, job)}")
    return 1


def _violation(cause: Cause) -> str:
    """One line for all tensors that one write changed."""
    names = ", ".join(cause.names[:SHOWN_NAMES])
    more = len(cause.names) - SHOWN_NAMES
    tensors = names if len(cause.names) == 1 else f"{len(cause.names):,} tensors ({names}{', …' if more > 0 else ''})"
    step = "" if cause.first_bad_step is None else f" at step {cause.first_bad_step}"
    why = cause.operation or cause.explanation
    return f"{tensors}{step}{f', {why}' if why else ''}"


def _reason(client: httpx2.Client, job: Mapping[str, Any]) -> str:
    """Why a job that has ended did not end succeeded and verified."""
    if job["status"] != "succeeded":
        return f"the job is {job['status']}"
    if job["evidence"]["verdict"] == "violated":
        return f"{_count(len(job['evidence']['violations']), 'tensor')} declared frozen changed"
    reason = _ask(client, "GET", f"fine_tuning/jobs/{job['id']}/evidence")["reason"]
    if reason and "nothing is frozen" in reason:
        reason += "; --policy says what to freeze"
    return reason or f"the evidence is {job['evidence']['verdict']}"


def _describe(job: Mapping[str, Any]) -> str:
    progress = job["progress"]
    status = job["status"].replace("_", " ")
    if job["status"] == "queued" and job["queue_position"]:
        return f"queued, position {job['queue_position']}"
    if job["status"] == "paused":
        return f"paused; resume it on its page or with POST /v1/fine_tuning/jobs/{job['id']}/resume"
    if progress["total_steps"]:
        return f"{status}, step {progress['step']} of {progress['total_steps']}"
    return str(status)


def _connect(server: str) -> httpx2.Client:
    settings = Settings()
    base = (server or f"http://{settings.host}:{settings.port}").rstrip("/").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{server!r} is not a URL such as http://127.0.0.1:8000", param_hint="--server")
    key = os.environ.get("PERMAFROST_API_KEY")
    return httpx2.Client(base_url=f"{base}/v1/", headers={"authorization": f"Bearer {key}"} if key else {}, timeout=30)


def _ask(client: httpx2.Client, method: str, path: str, **content: Any) -> JsonDict:
    try:
        return _checked(client.request(method, path, **content))
    except httpx2.TransportError as error:
        where = str(client.base_url).removesuffix("/v1/")
        hint = "is `permafrost serve` running there? --server or PERMAFROST_SERVER sets another address"
        raise SystemExit(f"{where} does not answer ({error}); {hint}") from None


def _checked(answer: httpx2.Response) -> JsonDict:
    if answer.is_success:
        body: JsonDict = answer.json()
        return body
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        raise SystemExit(f"{answer.url} answered {answer.status_code}, and it is not a Permafrost service") from None
    for line in _problem_lines(error):
        print(line, file=sys.stderr)
    hint = "\nThis command reads the API key from PERMAFROST_API_KEY." if answer.status_code == 401 else ""
    raise SystemExit(error["message"] + hint)


def _problem_lines(error: Mapping[str, Any]) -> list[str]:
    """One line per problem; empty when the error's message contains the only problem already."""
    problems = error.get("errors", [])
    if len(problems) == 1 and problems[0]["message"] in error["message"]:
        return []
    return [
        f"  line {item['line']}: {item['message']}" if item.get("line") else f"  {item['message']}" for item in problems
    ]


def _model(text: str) -> Any:
    return _json(text, "--model") if text.lstrip().startswith(("{", "@")) else text


def _json(text: str, option: str, example: str = "") -> Any:
    """The JSON value of an option, or of the file that @path names. Exit code 2 when it is not JSON.

    A key that an object has twice is refused as well: which of its values counts would be anyone's guess.
    """
    try:
        document = read_json(Path(text[1:]).read_bytes() if text.startswith("@") else os.fsencode(text))
    except OSError as error:
        raise typer.BadParameter(f"{text[1:]}: {error.strerror}", param_hint=option) from None
    except JsonError as error:
        hint = f"; for example {example}" if example else ""
        raise typer.BadParameter(
            f"not JSON: {str(error).removeprefix('not valid JSON: ')}{hint}", param_hint=option
        ) from None
    for key in repeated_keys(document):
        raise typer.BadParameter(f"the key {key!r} is given twice; give it once", param_hint=option)
    return document
