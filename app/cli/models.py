"""`permafrost models`: models of a running service, and models of a hub for its models folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import httpx2
import typer

from app.cli.files import download
from app.cli.output import AsJson, age, print_json, print_table, size
from app.cli.service import Server, ask, connect, listed
from app.jsontypes import JsonDict
from app.settings import Settings

app = typer.Typer(help="List, fetch and delete models.", no_args_is_help=True, rich_markup_mode=None)

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
#: Instead of a pipe with a project's secret: public models alone are fetched for the models folder.
_NO_SECRET: Final = "-1"
_FOLDER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@app.command(name="list")
def list_models(
    kind: Annotated[
        list[str] | None, typer.Option(help="base, fine_tuned, checkpoint or initial; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 50,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All of them.")] = False,
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """List base models and results, newest first."""
    query = [("kind", each) for each in kind or ()]
    with connect(server) as client:
        found = list(listed(client, "models", limit=None if everything else limit, query=query))
    if as_json:
        print_json(found)
    elif found:
        print_table(("MODEL", "KIND", "STATUS", "BASE", "SIZE", "AGE"), (_row(model) for model in found))
    else:
        typer.echo("No models; to fetch one: permafrost models pull OWNER/NAME", err=True)


@app.command()
def pull(
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION]", help="Id of the model on the hub.")],
    name: Annotated[str, typer.Option(help="Name of the folder, and so of the model; default: NAME.")] = "",
    as_json: AsJson = False,
) -> None:
    """Fetch a public model of a hub into the models folder, where every job finds it, also without a network.

    Run it where PERMAFROST_MODELS_DIR is. Only safetensors, configurations and tokenizers are taken; HF_ENDPOINT names
    another hub.
    """
    owner_name, _, revision = repository.partition("@")
    if not _HUB_ID.fullmatch(owner_name):
        raise typer.BadParameter(f"{owner_name!r} is not an id such as owner/name", param_hint="OWNER/NAME")
    name = name or owner_name.rpartition("/")[2]
    if not _FOLDER.fullmatch(name):
        raise typer.BadParameter(f"{name!r} is not a name of a folder", param_hint="--name")

    settings = Settings()
    target = settings.models / name
    if target.exists():
        raise SystemExit(
            f"{target} exists already; to use another name: permafrost models pull {repository} --name NAME"
        )
    commit = _fetch(settings, owner_name, revision or "main", target)
    if as_json:
        print_json({"model": name, "folder": str(target), "repository": owner_name, "commit": commit})
        return
    print(name)
    typer.echo(f"{owner_name} at {commit} is in {target}. To train it: --model {name}", err=True)


@app.command()
def get(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id of the model.")],
    folder: Annotated[Path, typer.Argument(file_okay=False, help="A new folder, or one that is empty.")],
    verify: Annotated[
        Path | None,
        typer.Option(
            "--verify", metavar="KEY", exists=True, dir_okay=False, help="Verify it by this public key (.pub) first."
        ),
    ] = None,
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """Download every file of a model into a folder, to load, serve or verify it from there.

    With --verify the folder also holds the attestation, and is created only after all of it was verified: a server
    that watches the folder above it, such as vLLM's LoRA resolver, never loads anything else.
    """
    if folder.exists() and any(folder.iterdir()):
        raise typer.BadParameter(f"{folder} is not empty: other files in it would be part of the model")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with connect(server) as client:
            files = _download(client, model, scratch, attested=verify is not None)
        if verify is not None:
            _verify(scratch, verify)
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if as_json:
        print_json({"model": model, "folder": str(folder), "files": files})
    typer.echo(f"{model} is in {folder}", err=True)


@app.command()
def rm(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Ids of models.")],
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """Delete models. One that a job or another model needs is refused, with what needs it."""
    with connect(server) as client:
        found = [ask(client, "DELETE", f"models/{quote(model, safe=':')}") for model in models]
    if as_json:
        print_json(found)
        return
    for each in found:
        print(f"{each['id']} deleted")


def _download(client: httpx2.Client, model: str, folder: Path, *, attested: bool) -> list[str]:
    """Downloads the files of a model, and its attestation where that is wanted. Returns the files' names."""
    url = f"models/{quote(model, safe=':')}"
    described = ask(client, "GET", url)
    files = [file["name"] for file in described["files"]]
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)  # of a module, or of chat templates
        download(client, f"{url}/files/{quote(name)}", folder / name)
    if attested:
        if not described["job_id"]:
            raise SystemExit(f"{model} is no result of a job here: there is no attestation to verify it by")
        job = f"fine_tuning/jobs/{quote(described['job_id'])}"
        download(client, f"{job}/attestation", folder / "attestation.json")
    return files


def _verify(folder: Path, key: Path) -> None:
    """SystemExit with the verifier's own code, where it does not verify the folder."""
    from app.evidence.verifier import verify as verifier  # here, so that the other commands start without it

    arguments = [str(folder / "attestation.json"), "--key", str(key), "--result", str(folder)]
    with redirect_stdout(sys.stderr):
        code = verifier.main(arguments)
    if code:
        raise SystemExit(code)


def _row(model: JsonDict) -> tuple[str, ...]:
    stored = sum(file["size"] for file in model["files"])
    return (
        model["id"],
        model["kind"],
        model["status"],
        model["base_model"] or "-",
        size(stored) if model["files"] else "-",
        age(model["created"]),
    )


def _fetch(settings: Settings, repository: str, revision: str, target: Path) -> str:
    """Download into a folder beside the target, which is there whole or not at all. Returns the commit."""
    settings.models.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".pull-", dir=settings.models))
    try:
        answer, into = scratch / "answer.json", scratch / "model"
        into.mkdir()
        # The worker's own fetcher, in a process as there: this command imports nothing of the worker.
        command = [sys.executable, "-P", "-m", "worker.supervisor.hub", str(answer), _NO_SECRET]
        command += [repository, revision, str(into), str(settings.max_hub_bytes)]
        environment = os.environ | {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DISABLE_XET": "1"}
        typer.echo(f"fetching {repository} at {revision}", err=True)
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True) as process:
            code = process.wait()
        if not answer.is_file():
            raise SystemExit(f"{repository} could not be fetched: the process ended with code {code}")
        result = json.loads(answer.read_text())
        if "error" in result:
            raise SystemExit(result["error"])
        shutil.rmtree(into / ".cache", ignore_errors=True)  # what huggingface_hub notes about its downloads
        into.rename(target)
        return str(result["commit"])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
