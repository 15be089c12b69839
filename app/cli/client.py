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

from app.cli.files import upload
from app.cli.job_file import FILES, SUFFIXES, local_file, read_job
from app.cli.jobs import violation
from app.cli.output import WIDE, AsJson, print_json
from app.cli.service import Server
from app.cli.service import ask as _ask
from app.cli.service import away as _away
from app.cli.service import checked as _checked
from app.cli.service import connect as _connect
from app.cli.service import problem_lines as _problem_lines
from app.evidence.causes import by_cause
from app.evidence.format.strict import JsonError, read_json, repeated_keys
from app.jsontypes import JsonDict

Model = Annotated[str, typer.Option("--model", help="Model id, or a model spec as JSON or @file.json.")]
OptionalModel = Annotated[str | None, typer.Option("--model", help="Model id, or a model spec as JSON or @file.json.")]
Policy = Annotated[str, typer.Option("--policy", help="Freeze policy as JSON or @file.json.")]
OptionalPolicy = Annotated[str | None, typer.Option("--policy", help="Freeze policy as JSON or @file.json.")]
EXAMPLE = """'{"freeze": ["bert.**"]}'"""
Task = Annotated[
    str | None,
    typer.Option(
        "--task", help="Task of a model given by id, such as text-classification; default: from file or model."
    ),
]
ENDED = {"succeeded", "failed", "cancelled"}
SHOWN_PROBLEMS = 20
#: Uploads of more bytes than this print a line while they run.
LARGE = 10_000_000
#: The longest that `preview` waits for a worker that reads a model.
READING_SECONDS = 120.0


def submit(
    training_file: Annotated[
        str | None,
        typer.Argument(
            help="JSONL, CSV or Parquet, or a reference such as hf://owner/name?split=train; or a job as YAML or JSON."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", exists=True, dir_okay=False, help="A job as YAML or JSON.")
    ] = None,
    model: OptionalModel = None,
    policy: OptionalPolicy = None,
    hyperparameters: Annotated[
        str | None, typer.Option("--hyperparameters", help="Hyperparameters as JSON or @file.json.")
    ] = None,
    task: Task = None,
    seed: Annotated[int | None, typer.Option(help="Random seed; default: chosen by the service.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the fine-tuned model's name.")] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Show progress until the job ends.")] = False,
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """Upload a file and start a job on it. Prints only the job's id on standard output.

    A job file has the fields of POST /v1/fine_tuning/jobs; its training_file may be a path beside it. Options come
    before its fields.
    """
    if file is None and training_file is not None and Path(training_file).suffix in SUFFIXES and _here(training_file):
        file, training_file = Path(training_file), None
    body = (read_job(file) if file else {}) | _given(model, policy, hyperparameters, task, seed, suffix)
    if training_file is not None:
        body["training_file"] = str(Path(training_file).absolute()) if _here(training_file) else training_file
    _require(body)

    with _connect(server) as client:
        for name in FILES:
            path = local_file(body.get(name), file.parent if file else Path())
            if path is not None:
                body[name] = _uploaded(client, path)
        job = _ask(client, "POST", "fine_tuning/jobs", json=body)
        if job["object"].endswith(".dry_run"):
            print_json(job)
            return
        _announce(client, job, as_json=as_json, follow=follow)
        if follow:
            raise SystemExit(_follow(client, job["id"], as_json=as_json))


def _here(training_file: str) -> bool:
    """Whether it is a file of this machine, and no reference. BadParameter where there is no such file."""
    if "://" in training_file:
        return False
    if not Path(training_file).is_file():
        raise typer.BadParameter(f"there is no file {training_file!r} here", param_hint="TRAINING_FILE")
    return True


def _given(
    model: str | None,
    policy: str | None,
    hyperparameters: str | None,
    task: str | None,
    seed: int | None,
    suffix: str | None,
) -> JsonDict:
    """The fields of a job that options give."""
    fields = {
        "model": _model(model) if model is not None else None,
        "freeze_policy": _json(policy, "--policy", EXAMPLE) if policy is not None else None,
        "hyperparameters": _json(hyperparameters, "--hyperparameters") if hyperparameters is not None else None,
        "task": task,
        "seed": seed,
        "suffix": suffix,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _require(body: Mapping[str, Any]) -> None:
    for name, hint in (("training_file", "TRAINING_FILE"), ("model", "--model")):
        if name not in body:
            message = f"a job needs a {name.replace('_', ' ')}: give it here, or in a job file with -f"
            raise typer.BadParameter(message, param_hint=hint)


def _uploaded(client: httpx2.Client, path: Path) -> str:
    if (bytes_ := path.stat().st_size) > LARGE:
        print(f"uploading {path.name}, {bytes_ / 1e6:,.0f} MB", file=sys.stderr)
    return str(upload(client, path, purpose="fine-tune")["id"])


def _announce(client: httpx2.Client, job: JsonDict, *, as_json: bool, follow: bool) -> None:
    """The job's id alone on standard output; its page, and what to do next, beside it."""
    if not as_json:
        print(job["id"], flush=True)
    elif not follow:  # else it is printed once it has ended
        print_json(job)
    page = f"{str(client.base_url).removesuffix('/v1/')}/jobs/{job['id']}"
    print(page if follow else f"{page}\nto see its progress: permafrost watch {job['id']}", file=sys.stderr)


def watch(
    job: Annotated[str, typer.Argument(help="Id of the job, ftjob-…")], as_json: AsJson = False, server: Server = ""
) -> None:
    """Show a job's progress until it ends. Exit code 0: succeeded and verified; 1: any other end; 130: Ctrl-C."""
    with _connect(server) as client:
        raise SystemExit(_follow(client, job, as_json=as_json))


def preview(
    model: Model, policy: Policy = "{}", task: Task = None, as_json: AsJson = False, server: Server = ""
) -> None:
    """Show what a policy would freeze in a model, without training."""
    body: JsonDict = {
        "model": _model(model),
        "freeze_policy": _json(policy, "--policy", EXAMPLE),
        "limit": 10_000,
    }
    body |= {"task": task} if task else {}
    with _connect(server) as client:
        answer = _checked(_once_read(client, body))
    if as_json:
        print_json(answer)
    else:
        _print_preview(answer)


def _once_read(client: httpx2.Client, body: JsonDict) -> httpx2.Response:
    """The answer to a preview. It waits for a worker that has yet to read the model, and says so."""
    until, announced = time.monotonic() + READING_SECONDS, False
    while True:
        try:
            answer = client.post("freeze_policies/preview", json=body)
        except httpx2.TransportError as error:
            raise _away(client, error) from None
        if answer.status_code != 409 or time.monotonic() > until:
            return answer
        if not announced:
            print("a worker reads the model's files; this takes some seconds", file=sys.stderr)
            announced = True
        time.sleep(float(answer.headers.get("retry-after", "1")))


def _print_preview(answer: Mapping[str, Any]) -> None:
    # Written to a pipe, names are never cut, so that grep finds them.
    console = Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else WIDE)
    table = Table("tensor", "shape", "action", "by rule", box=None if not sys.stdout.isatty() else HEAVY_HEAD)
    for row in answer["data"]:
        table.add_row(row["name"], "×".join(map(str, row["shape"])), row["action"], row["rule"])
    console.print(table)

    counts = answer["freeze_plan"]
    for side in ("frozen", "trainable"):
        tensors, elements = counts[side]["tensors"], counts[side]["elements"]
        console.print(f"{side}: {_count(tensors, 'tensor')}, {_count(elements, 'element')}")
    for part in answer["parts"]:
        names, tensors = ", ".join(part["matched"]), _count(part["tensors"], "tensor")
        console.print(f"{part['part']}: {names} ({tensors}, {_count(part['elements'], 'element')})")
    for warning in answer["warnings"]:
        console.print(f"warning: {warning}")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _follow(client: httpx2.Client, job_id: str, *, as_json: bool = False) -> int:
    """Show a progress bar in a terminal, else print a line per status and per 10 percent. Returns the exit code."""
    console = Console(stderr=True, emoji=False, highlight=False, markup=False, soft_wrap=True)
    job = _ask(client, "GET", f"fine_tuning/jobs/{job_id}")
    try:
        job = _bar(client, console, job) if console.is_terminal else _lines(client, console, job)
    except KeyboardInterrupt:
        console.print(f"\nstopped watching; the job goes on. To watch it again: permafrost watch {job_id}")
        return 130
    if as_json:
        print_json(job)
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
        console.print(f"violation: {violation(cause)}")

    if job["status"] == "succeeded" and verdict == "verified":
        return 0
    console.print(f"exit code 1: {_reason(client, job)}")
    return 1


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
        return f"paused; to go on: permafrost resume {job['id']}"
    if progress["total_steps"]:
        return f"{status}, step {progress['step']} of {progress['total_steps']}"
    return str(status)


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
