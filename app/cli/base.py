"""`permafrost base`: the root of a base model's files, and signed registries of such roots."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from app.cli.output import AsJson, print_json

app = typer.Typer(no_args_is_help=True, help="Roots of base models, and signed lists of them.")
registry = typer.Typer(no_args_is_help=True, help="Signed lists of bases, by which `verify` reaches level 2.")
app.add_typer(registry, name="registry")


@app.command()
def root(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A base model's folder.")],
    as_json: AsJson = False,
) -> None:
    """Print the root over the tensors of a base, as evidence has it and `verify --base-root` takes it."""
    from app.evidence.format.base_registry import RegistryError, base_root

    try:
        found = base_root(folder)
    except RegistryError as error:
        raise SystemExit(str(error)) from None
    if as_json:
        print_json({"folder": str(folder), "root": found})
    else:
        print(found)


@registry.command()
def make(
    bases: Annotated[list[str], typer.Argument(help="owner/name@commit=FOLDER, or =ROOT where the root is known.")],
    key: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Private key (PEM) that signs the registry.")],
    output: Annotated[Path | None, typer.Option(help="Where to write it; default: standard output.")] = None,
) -> None:
    """Make a registry of these bases and sign it."""
    from app.evidence.format.base_registry import RegistryError, build
    from app.evidence.format.keys import KeyFileError, load

    try:
        envelope = build(_roots(bases), issued_at=datetime.now(UTC).replace(microsecond=0), key=load(key))
    except (RegistryError, KeyFileError) as error:
        raise SystemExit(str(error)) from None
    text = json.dumps(envelope, indent=1) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, "utf-8")


@registry.command()
def show(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A registry.")],
    key: Annotated[list[Path], typer.Option(help="Public key (PEM) or ring of keys that you trust; can be repeated.")],
    as_json: AsJson = False,
) -> None:
    """Print the names and roots of a registry that one of the keys has signed."""
    from app.evidence.format.base_registry import RegistryError, read
    from app.evidence.format.keys import KeyFileError, iso, read_trusted

    try:
        trusted = [one for path in key for one in read_trusted(path)]
        held = read(file.read_bytes(), trusted, now=datetime.now(UTC))
    except (RegistryError, KeyFileError, OSError) as error:
        raise SystemExit(f"{file}: {error}") from None
    if as_json:
        print_json({"issued_at": iso(held.issued_at), "keyids": held.keyids, "bases": held.bases})
        return
    for name, digest in held.bases.items():
        print(f"{digest}  {name}")
    print(f"signed by {', '.join(held.keyids)} at {iso(held.issued_at)}", file=sys.stderr)


def _roots(bases: list[str]) -> dict[str, str]:
    from app.evidence.format.base_registry import RegistryError, base_root

    roots: dict[str, str] = {}
    for text in bases:
        name, found, value = text.partition("=")
        if not found or not value:
            raise typer.BadParameter(f"{text!r} is not owner/name@commit=FOLDER", param_hint="BASES")
        if name in roots:
            raise RegistryError(f"{name} is given twice")
        roots[name] = base_root(Path(value)) if Path(value).is_dir() else value.lower()
    return roots
