"""`permafrost files`: the project's files."""

from pathlib import Path
from typing import Annotated

import httpx2
import typer

from app.cli.output import AsJson, OutputFile, age, print_json, print_table, size
from app.cli.service import Server, ask, away, checked, connect, listed
from app.cli.uploads import IN_PARTS_FROM, upload_in_parts

app = typer.Typer(help="List, upload, download and delete files.", no_args_is_help=True, rich_markup_mode=None)

_BLOCK = 1 << 20
FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="Id of the file, file-…")]


@app.command(name="list")
def list_files(
    purpose: Annotated[str | None, typer.Option(help="Only files of this purpose, such as fine-tune.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 50,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All of them.")] = False,
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """List files, newest first."""
    query = [("purpose", purpose)] if purpose else []
    with connect(server) as client:
        found = list(listed(client, "files", limit=None if everything else limit, query=query))
    if as_json:
        print_json(found)
    elif found:
        rows = (
            (each["id"], each["filename"], size(each["bytes"]), each["purpose"], age(each["created_at"]))
            for each in found
        )
        print_table(("FILE", "NAME", "SIZE", "PURPOSE", "AGE"), rows)
    else:
        typer.echo("No files; to upload one: permafrost files put PATH", err=True)


@app.command()
def put(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", exists=True, dir_okay=False)],
    purpose: Annotated[str, typer.Option(help="What the files are for.")] = "fine-tune",
    going_on: Annotated[
        str | None, typer.Option("--upload", metavar="UPLOAD", help="Go on with an upload in parts that was cut off.")
    ] = None,
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """Upload files. Prints their ids, one a line. Files of 256 MB and more are sent in parts."""
    if going_on and len(paths) > 1:
        raise typer.BadParameter("goes on with one file; give one path", param_hint="--upload")
    with connect(server) as client:
        found = [
            upload_in_parts(client, path, purpose=purpose, upload_id=going_on)
            if going_on or path.stat().st_size >= IN_PARTS_FROM
            else upload(client, path, purpose=purpose)
            for path in paths
        ]
    if as_json:
        print_json(found)
        return
    for each in found:
        print(each["id"])


@app.command()
def get(
    file: FileArgument,
    output: OutputFile = None,
    server: Server = "",
) -> None:
    """Download a file."""
    with connect(server) as client:
        download(client, f"files/{file}/content", output)


@app.command()
def rm(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Ids of files, file-…")],
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """Delete files. One that a job still needs is refused."""
    with connect(server) as client:
        found = [ask(client, "DELETE", f"files/{file}") for file in files]
    if as_json:
        print_json(found)
        return
    for each in found:
        print(f"{each['id']} deleted")


def upload(client: httpx2.Client, path: Path, *, purpose: str) -> dict[str, object]:
    """Upload a file and return it as the API describes it."""
    with path.open("rb") as content:
        return ask(
            client, "POST", "files", data={"purpose": purpose}, files={"file": (path.name, content)}, timeout=600
        )


def download(client: httpx2.Client, url: str, output: Path | None) -> None:
    """Write the bytes behind a URL to a path, or to standard output. A file that breaks off leaves nothing behind."""
    try:
        with client.stream("GET", url, timeout=600) as answer:
            if not answer.is_success:
                answer.read()
                checked(answer)
            if output is None:
                out = typer.get_binary_stream("stdout")
                for block in answer.iter_bytes(_BLOCK):
                    out.write(block)
                return
            part = output.with_name(f".{output.name}.part")
            try:
                with part.open("wb") as file:
                    for block in answer.iter_bytes(_BLOCK):
                        file.write(block)
                part.replace(output)
            finally:
                part.unlink(missing_ok=True)
    except httpx2.TransportError as error:
        raise away(client, error) from None
