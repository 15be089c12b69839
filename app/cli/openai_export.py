"""`permafrost import openai`: takes files and jobs along from an export of OpenAI's objects."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from app.cli.files import upload
from app.cli.output import AsJson, print_json
from app.cli.service import Server, ask, connect
from app.jsontypes import JsonDict
from app.settings import read_aliases, stands_for

app = typer.Typer(help="Take files and jobs along from other services.", no_args_is_help=True, rich_markup_mode=None)

_FILES: Final = ("training_file", "validation_file")
#: Fields of a job there that are the same here.
_KEPT: Final = ("suffix", "seed", "metadata", "method", "hyperparameters")


@app.callback()
def group() -> None:
    """Take files and jobs along from other services."""


@dataclass(frozen=True, slots=True)
class ExportedJob:
    """A job of an export: the request that makes it here, its files, and why there may be none."""

    name: str
    request: JsonDict
    files: Mapping[str, Path]
    notes: tuple[str, ...] = ()
    problem: str | None = None


@app.command()
def openai(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Files and JSON of files and jobs.")],
    models: Annotated[
        str,
        typer.Option("--models", help="Which model a name stands for: gpt-4.1-mini*=smollm,…; default: the service's."),
    ] = "",
    submit: Annotated[bool, typer.Option("--submit", help="Also start the jobs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """Upload the training files of exported jobs and print, or submit, the same jobs on local models.

    The folder holds JSON as `client.fine_tuning.jobs` and `client.files` return it (an object, a list or a page in each
    file), and training files named by their id or their file name. Exit code 1 where a job could not be mapped.
    """
    jobs = list(read_export(folder, _aliases(models)))
    if not jobs:
        raise SystemExit(f"{folder} has no JSON of a job, which is an object whose `object` is fine_tuning.job")
    for job in jobs:
        for note in (*job.notes, *((f"left out: {job.problem}",) if job.problem else ())):
            typer.echo(f"{job.name}: {note}", err=True)
    mapped = [job for job in jobs if job.problem is None]
    done = [dict(job.request, **{name: str(path) for name, path in job.files.items()}) for job in mapped]
    if not dry_run:
        done = _send(mapped, server=server, submit=submit)
    if as_json:
        print_json(done)
    else:
        for item in done:
            print(item["id"] if submit and not dry_run else json.dumps(item, ensure_ascii=False))
    raise SystemExit(1 if len(mapped) < len(jobs) else 0)


def read_export(folder: Path, aliases: Mapping[str, str]) -> Iterator[ExportedJob]:
    """The jobs in a folder's JSON, the oldest first."""
    objects = [found for path in sorted(folder.rglob("*.json")) for found in _objects(path)]
    names = {item["id"]: str(item.get("filename", "")) for item in objects if item.get("object") == "file"}
    jobs = {item["id"]: item for item in objects if item.get("object") == "fine_tuning.job"}
    for job in sorted(jobs.values(), key=lambda item: item.get("created_at") or 0):
        yield _exported(job, folder, names, aliases)


def _exported(job: JsonDict, folder: Path, names: Mapping[str, str], aliases: Mapping[str, str]) -> ExportedJob:
    request = {name: job[name] for name in _KEPT if job.get(name)}
    if "method" in request:
        request.pop("hyperparameters", None)  # the same once more, in the form that is deprecated there
    request["model"] = stands_for(aliases, str(job["model"])) or job["model"]
    files: dict[str, Path] = {}
    problem = _unmapped(job)
    for name in _FILES:
        if job.get(name):
            path = _file(folder, str(job[name]), names)
            if path is None:
                problem = problem or f"its {name} {job[name]} is not in {folder}"
            else:
                files[name] = path
    notes = ("its integrations are not offered here",) if job.get("integrations") else ()
    return ExportedJob(str(job["id"]), request, files, notes, problem)


def _unmapped(job: JsonDict) -> str | None:
    """What of a job cannot be done here."""
    kind = (job.get("method") or {}).get("type", "supervised")
    if kind not in ("supervised", "dpo"):
        return f"the method {kind!r} is not offered here"
    return None


def _objects(path: Path) -> Iterator[JsonDict]:
    """The objects in a file: one, a list, or a page with `data`. SystemExit where it is no JSON."""
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise SystemExit(f"{path} is not JSON: {error}") from None
    if isinstance(content, dict) and content.get("object") == "list":
        content = content.get("data")
    for item in content if isinstance(content, list) else [content]:
        if isinstance(item, dict) and "id" in item:
            yield item


def _file(folder: Path, file_id: str, names: Mapping[str, str]) -> Path | None:
    """The file of an id: named by it, with or without an ending, or by the name that it had there."""
    wanted = [file_id, f"{file_id}.jsonl", *([Path(names[file_id]).name] if names.get(file_id) else [])]
    return next((path for name in wanted for path in sorted(folder.rglob(name)) if path.is_file()), None)


def _send(jobs: list[ExportedJob], *, server: str, submit: bool) -> list[JsonDict]:
    """Uploads each file once; submits the jobs, or gives their requests."""
    uploaded: dict[Path, str] = {}
    done = []
    with connect(server) as client:
        for job in jobs:
            for path in job.files.values():
                if path not in uploaded:
                    uploaded[path] = str(upload(client, path, purpose="fine-tune")["id"])
            request = job.request | {name: uploaded[path] for name, path in job.files.items()}
            done.append(ask(client, "POST", "fine_tuning/jobs", json=request) if submit else request)
    return done


def _aliases(text: str) -> dict[str, str]:
    try:
        return read_aliases(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--models") from None
