"""`permafrost secrets`: tokens and keys with which workers reach a project's models and data elsewhere."""

import sys
from typing import Annotated

import typer

from app.cli.output import AsJson, age, print_json, print_table
from app.cli.service import Server, ask, connect, listed
from app.evidence.format.strict import read_json, repeated_keys
from app.jsontypes import JsonDict

app = typer.Typer(help="Set, list and delete secrets.", no_args_is_help=True, rich_markup_mode=None)


@app.command(name="set")
def set_secret(
    name: Annotated[str, typer.Argument(help="Name of the secret in this project.")],
    kind: Annotated[
        str, typer.Option(help="hub, mlflow, trackio or wandb (a token), or s3 (a JSON object of keys).")
    ] = "hub",
    scope: Annotated[str, typer.Option(help="Only for this owner, repository or bucket; default: all.")] = "",
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """Set a secret. The value comes from standard input or a prompt: other users can see a command line."""
    body: JsonDict = {"name": name, "kind": kind, "scope": scope, "value": _value(name)}
    with connect(server) as client:
        secret = ask(client, "POST", "secrets", json=body)
    if as_json:
        print_json(secret)
        return
    about = f" for {scope}" if scope else ""
    typer.echo(f"{name} is set{about}; its value is encrypted and shown nowhere", err=True)


@app.command(name="list")
def list_secrets(as_json: AsJson = False, server: Server = "") -> None:
    """List secrets: names, kinds and scopes, newest first."""
    with connect(server) as client:
        found = list(listed(client, "secrets", limit=None))
    if as_json:
        print_json(found)
    elif found:
        rows = ((each["name"], each["kind"], each["scope"] or "all", age(each["updated_at"])) for each in found)
        print_table(("NAME", "KIND", "SCOPE", "AGE"), rows)
    else:
        typer.echo("No secrets; to set one: permafrost secrets set NAME --kind hub", err=True)


@app.command()
def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of secrets.")],
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """Delete secrets."""
    with connect(server) as client:
        found = [ask(client, "DELETE", f"secrets/{name}") for name in names]
    if as_json:
        print_json(found)
        return
    for name in names:
        print(f"{name} deleted")


def _value(name: str) -> str | JsonDict:
    """The value: text, or what a JSON object says."""
    given = typer.prompt(f"Value of {name}", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.read()
    given = given.strip()
    if not given:
        raise typer.BadParameter("standard input is empty: pipe the value in, such as `pass hub-token | permafrost …`")
    if not given.startswith("{"):
        return str(given)
    try:
        fields: JsonDict = read_json(given.encode())
    except ValueError as error:
        raise typer.BadParameter(f"the value begins as a JSON object and is not one: {type(error).__name__}") from None
    for key in repeated_keys(fields):
        raise typer.BadParameter(f"the value has the key {key!r} twice; give it once")
    return fields
