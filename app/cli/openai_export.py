"""`permafrost import openai`: takes files and jobs along from an export of OpenAI's objects."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from app.cli.files import upload
from app.cli.output import AsJson, print_json
from app.cli.service import RequestRefused, Server, ask, connect
from app.jsontypes import JsonDict
from app.settings import read_aliases, stands_for

app = typer.Typer(help="Take files and jobs along from other services.", no_args_is_help=True, rich_markup_mode=None)

_FILES: Final = ("training_file", "validation_file")
#: Fields of a job there that are the same here.
_KEPT: Final = ("seed", "metadata", "hyperparameters")
#: The suffix as this service's jobs have it, and as OpenAI's do.
_SUFFIXES: Final = ("suffix", "user_provided_suffix")
_METHODS: Final = ("supervised", "dpo")


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
    done = []
    for item in _local(mapped) if dry_run else _send(mapped, server=server, submit=submit):
        done.append(item)
        if not as_json:
            # At once: what stops the command later does not hide what was done before.
            print(item["id"] if submit and not dry_run else json.dumps(item, ensure_ascii=False), flush=True)
    if as_json:
        print_json(done)
    raise SystemExit(1 if len(done) < len(jobs) else 0)


def read_export(folder: Path, aliases: Mapping[str, str]) -> Iterator[ExportedJob]:
    """The jobs in a folder's JSON, the oldest first."""
    objects = [found for path in sorted(folder.rglob("*.json")) for found in _objects(path)]
    names = {item["id"]: str(item.get("filename", "")) for item in objects if item.get("object") == "file"}
    jobs = {item["id"]: item for item in objects if item.get("object") == "fine_tuning.job"}
    paths = {path.name: path for path in sorted(folder.rglob("*"), reverse=True) if path.is_file()}
    for job in sorted(jobs.values(), key=_created):
        yield _exported(job, _Files(folder, paths, names), aliases)


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of an export by their own names, and the names that ids had there."""

    folder: Path
    paths: Mapping[str, Path]
    names: Mapping[str, str]

    def find(self, file_id: str) -> Path | None:
        """The file of an id: named by it, with or without an ending, or by the name that it had there."""
        wanted = (file_id, f"{file_id}.jsonl", Path(self.names.get(file_id, "")).name)
        return next((self.paths[name] for name in wanted if name in self.paths), None)


def _created(job: JsonDict) -> float:
    at = job.get("created_at")
    return at if isinstance(at, int | float) else 0


def _exported(job: JsonDict, files: _Files, aliases: Mapping[str, str]) -> ExportedJob:
    request = {name: job[name] for name in _KEPT if job.get(name)}
    suffix = next((job[name] for name in _SUFFIXES if job.get(name)), None)
    request |= {"suffix": suffix} if suffix else {}
    notes = ("its integrations are not offered here",) if job.get("integrations") else ()
    problem = _unmapped(job)
    if problem is not None:
        return ExportedJob(job["id"], request, {}, notes, problem)

    if job.get("method"):
        kind = job["method"].get("type", "supervised")
        # The SDK writes the options of every other method as null.
        request["method"] = {"type": kind, kind: job["method"].get(kind)}
        request.pop("hyperparameters", None)  # the same once more, in the form that is deprecated there
    request["model"] = stands_for(aliases, job["model"]) or job["model"]
    found = {name: files.find(job[name]) for name in _FILES if job.get(name)}
    for name, path in found.items():
        if path is None:
            problem = problem or f"its {name} {job[name]} is not in {files.folder}"
    return ExportedJob(job["id"], request, {name: path for name, path in found.items() if path}, notes, problem)


def _unmapped(job: JsonDict) -> str | None:
    """What of a job cannot be done here, or is not as the SDK returns it."""
    for name in ("model", "training_file"):
        if not job.get(name):
            return f"it has no {name}"
    for name in ("model", *_FILES):
        if not isinstance(job.get(name) or "", str):
            return f"its {name} is {json.dumps(job[name])[:80]}, not a text"
    method = job.get("method") or {}
    if not isinstance(method, dict):
        return f"its method is {json.dumps(method)[:80]}, not an object with a `type`"
    if method.get("type", "supervised") not in _METHODS:
        return f"the method {method['type']!r} is not offered here"
    return None


def _objects(path: Path) -> Iterator[JsonDict]:
    """The objects in a file: one, a list, or a page with `data`. SystemExit where it is no JSON."""
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SystemExit(f"{path} is not JSON: {error}") from None
    if isinstance(content, dict) and content.get("object") == "list":
        content = content.get("data")
    for item in content if isinstance(content, list) else [content]:
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            yield item


def _local(jobs: list[ExportedJob]) -> Iterator[JsonDict]:
    """The requests, with paths where the ids of uploaded files will be."""
    for job in jobs:
        yield job.request | {name: str(path) for name, path in job.files.items()}


def _send(jobs: list[ExportedJob], *, server: str, submit: bool) -> Iterator[JsonDict]:
    """Uploads each file once; submits the jobs, or gives their requests. A job that is refused is left out by name."""
    uploaded: dict[Path, str] = {}
    with connect(server) as client:
        for job in jobs:
            try:
                for path in job.files.values():
                    if path not in uploaded:
                        uploaded[path] = str(upload(client, path, purpose="fine-tune")["id"])
                request = job.request | {name: uploaded[path] for name, path in job.files.items()}
                yield ask(client, "POST", "fine_tuning/jobs", json=request) if submit else request
            except RequestRefused as refusal:
                if not refusal.of_this_request:
                    raise
                typer.echo(f"{job.name}: left out: {refusal}", err=True)


def _aliases(text: str) -> dict[str, str]:
    try:
        return read_aliases(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--models") from None
