"""`permafrost jobs`, `show`, `logs`, `cancel`, `pause` and `resume`: jobs of a running service."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import httpx2
import typer

from app.cli.files import download
from app.cli.output import AsJson, age, print_json, print_table, size
from app.cli.service import Server, ask, away, checked, connect, listed
from app.evidence.causes import Cause, by_cause
from app.jsontypes import JsonDict

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, ftjob-…")]
JobArguments = Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids of jobs, ftjob-…")]
#: Of the tensors of one violation.
_SHOWN_NAMES: Final = 3
_RETRY_SECONDS: Final = 2.0


def jobs(
    status: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    verdict: Annotated[
        list[str] | None, typer.Option(help="Only jobs whose evidence says this; may be repeated.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs on this model.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only jobs with this tag; may be repeated.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 20,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All of them.")] = False,
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """List jobs, newest first."""
    query = [("status", each) for each in status or ()] + [("verdict", each) for each in verdict or ()]
    query += [("tag", each) for each in tag or ()] + ([("model", model)] if model else [])
    with connect(server) as client:
        found = list(listed(client, "fine_tuning/jobs", limit=None if everything else limit, query=query))
    if as_json:
        print_json(found)
    elif found:
        columns = ("JOB", "STATUS", "EVIDENCE", "PROGRESS", "MODEL", "AGE", "NAME")
        print_table(columns, (_row(job) for job in found))
    else:
        hint = "drop a filter" if query else "to start one: permafrost submit FILE --model MODEL"
        typer.echo(f"No such job; {hint}." if query else f"No jobs yet; {hint}.", err=True)


def show(job: JobArgument, as_json: AsJson = False, server: Server = "") -> None:
    """Show a job: state, verdict and why, what is frozen, result, and the commands that come next."""
    with connect(server) as client:
        found = ask(client, "GET", f"fine_tuning/jobs/{job}")
        evidence = ask(client, "GET", f"fine_tuning/jobs/{job}/evidence")
        page = f"{str(client.base_url).removesuffix('/v1/')}/jobs/{job}"
    if as_json:
        print_json(found)
        return
    for name, value in _description(found, evidence, page):
        print(f"{name + ':':<16} {value}")


def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=1, max=10_000, help="Only the last so many lines.")] = None,
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """Print what a job's trainers printed."""
    with connect(server) as client:
        lines = _followed(client, job, tail) if follow else _printed(client, job, tail)
        try:
            for line in lines:
                print(json.dumps(line, ensure_ascii=False) if as_json else line["text"], flush=follow)
        except KeyboardInterrupt:
            raise SystemExit(130) from None


def report(
    job: JobArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="Write here; default: JOB.report.html.")
    ] = None,
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """Write a job that has ended as one HTML file for an auditor's folder. Prints the file's name."""
    path = output or Path(f"{job}.report.html")
    with connect(server) as client:
        download(client, f"fine_tuning/jobs/{job}/report", path)
    if as_json:
        print_json({"job": job, "file": str(path)})
    else:
        print(path)


def cancel(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids of jobs (ftjob-…) and sweeps (ftsweep-…).")],
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """Cancel jobs at once. What a running one has trained so far is lost, but for its checkpoints."""
    _each(jobs, "cancel", server=server, as_json=as_json)


def pause(jobs: JobArguments, as_json: AsJson = False, server: Server = "") -> None:
    """Pause jobs. A running one saves its state first."""
    _each(jobs, "pause", server=server, as_json=as_json)


def resume(jobs: JobArguments, as_json: AsJson = False, server: Server = "") -> None:
    """Resume paused jobs from where they stopped, with the same bits as if they never had."""
    _each(jobs, "resume", server=server, as_json=as_json)


def rm(jobs: JobArguments, as_json: AsJson = False, server: Server = "") -> None:
    """Delete jobs that have ended, with their models, checkpoints and evidence. The files they trained on stay."""
    with connect(server) as client:
        found = [ask(client, "DELETE", f"fine_tuning/jobs/{job}") for job in jobs]
    if as_json:
        print_json(found)
        return
    for job in found:
        print(f"{job['id']} deleted")


def violation(cause: Cause) -> str:
    """One line for all tensors that one write changed."""
    names = ", ".join(cause.names[:_SHOWN_NAMES])
    more = len(cause.names) - _SHOWN_NAMES
    tensors = names if len(cause.names) == 1 else f"{len(cause.names):,} tensors ({names}{', …' if more > 0 else ''})"
    step = "" if cause.first_bad_step is None else f" at step {cause.first_bad_step}"
    why = cause.operation or cause.explanation
    return f"{tensors}{step}{f', {why}' if why else ''}"


def _each(jobs: list[str], action: str, *, server: str, as_json: bool) -> None:
    with connect(server) as client:
        found = [ask(client, "POST", f"fine_tuning/{_kind(job)}/{job}/{action}") for job in jobs]
    if as_json:
        print_json(found)
        return
    for job in found:
        print(f"{job['id']} {job['status']}")


def _kind(id: str) -> str:
    return "sweeps" if id.startswith("ftsweep-") else "jobs"


def _row(job: Mapping[str, Any]) -> tuple[str, ...]:
    percent = job["progress"]["percent"]
    position = f" #{job['queue_position']}" if job["queue_position"] else ""
    return (
        job["id"],
        f"{job['status']}{position}",
        job["evidence"]["verdict"],
        "-" if percent is None else f"{percent:.0f}%",
        job["model"],
        age(job["created_at"]),
        job["suffix"] or "-",
    )


def _description(job: JsonDict, evidence: JsonDict, page: str) -> Iterator[tuple[str, str]]:
    """Names and values, in the order in which they are read."""
    yield "Job", job["id"]
    yield "Page", page
    yield "Status", job["status"] + (f", number {job['queue_position']} in the queue" if job["queue_position"] else "")
    if job["waiting_for"]:
        yield "Waits for", job["waiting_for"]
    yield "Evidence", job["evidence"]["verdict"] + (f": {evidence['reason']}" if evidence["reason"] else "")
    for cause in by_cause(job["evidence"]["violations"]):
        yield "Violation", violation(cause)
    if job["error"]:
        yield "Error", f"{job['error']['message']} ({job['error']['code']})"
    yield from _work(job)
    yield from _next(job)


def _work(job: JsonDict) -> Iterator[tuple[str, str]]:
    stands_for = f", which stands for {job['resolved_model']}" if job["resolved_model"] != job["model"] else ""
    yield "Model", f"{job['model']}{stands_for}, {job['task']}"
    if adapter := job["model_spec"].get("adapter"):
        yield "Adapter", ", ".join(f"{name} {value}" for name, value in adapter.items())
    yield "Training file", job["training_file"]
    if plan := job["freeze_plan"]:
        for side in ("frozen", "trainable"):
            count = plan[side]["tensors"]
            yield side.capitalize(), f"{count:,} tensor{'s' * (count != 1)}, {size(plan[side]['bytes'])}"
    progress = job["progress"]
    if progress["total_steps"]:
        yield "Progress", f"step {progress['step']:,} of {progress['total_steps']:,}, {progress['percent']:.0f}%"
    for name in ("created_at", "started_at", "finished_at"):
        if job[name]:
            yield (
                name.removesuffix("_at").capitalize(),
                f"{datetime.fromtimestamp(job[name], UTC):%Y-%m-%d %H:%M:%S} UTC",
            )
    if job["fine_tuned_model"]:
        yield "Result", job["fine_tuned_model"]


def _next(job: JsonDict) -> Iterator[tuple[str, str]]:
    """The commands that people need now."""
    name = job["id"]
    if job["status"] in ("queued", "validating_files", "running", "pausing"):
        yield "Next", f"permafrost watch {name}"
    elif job["status"] == "paused":
        yield "Next", f"permafrost resume {name}"
    elif job["status"] == "failed":
        yield "Next", f"permafrost logs {name}"
    elif job["fine_tuned_model"]:
        yield "Next", f"permafrost report {name}"


def _printed(client: httpx2.Client, job: str, tail: int | None) -> Iterator[JsonDict]:
    if tail is not None:
        yield from ask(client, "GET", f"fine_tuning/jobs/{job}/logs", params={"tail": tail})["data"]
        return
    after: dict[str, str] = {}
    while True:
        page = ask(client, "GET", f"fine_tuning/jobs/{job}/logs", params={"limit": "10000", **after})
        yield from page["data"]
        if not page["has_more"]:
            return
        after = {"after": page["last_id"]}


def _followed(client: httpx2.Client, job: str, tail: int | None) -> Iterator[JsonDict]:
    """The lines of a live stream to the job's end; a connection that breaks is made again behind the last line."""
    query = {"stream": "true"} | ({"tail": str(tail)} if tail else {})
    seen: str | None = None
    while True:
        headers = {"accept": "text/event-stream"} | ({"last-event-id": seen} if seen else {})
        try:
            with client.stream(
                "GET", f"fine_tuning/jobs/{job}/logs", params=query, headers=headers, timeout=60
            ) as answer:
                if not answer.is_success:
                    answer.read()
                    checked(answer)
                for line in answer.iter_lines():
                    if line == "data: [DONE]":
                        return
                    if line.startswith("data: "):
                        found = json.loads(line.removeprefix("data: "))
                        seen = found["id"]
                        yield found
        except httpx2.TransportError as error:
            if seen is None:
                raise away(client, error) from None
            print(f"the connection broke ({error}); trying again", file=sys.stderr)
        time.sleep(_RETRY_SECONDS)
