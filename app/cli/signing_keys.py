"""`permafrost keys signing`: list, rotate and revoke the keys that sign statements. Run where the worker's key is."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.evidence.format.keys import KeyFileError, iso, read_ring
from app.evidence.format.rotation import OVERLAP
from app.evidence.format.rotation import revoke as revoke_key
from app.evidence.format.rotation import rotate as rotate_key

app = typer.Typer(help="Keys that sign evidence: list, rotate, revoke.", no_args_is_help=True, rich_markup_mode=None)


class Algorithm(StrEnum):
    ed25519 = "ed25519"
    p256 = "ecdsa-p256"


KeyPath = Annotated[Path | None, typer.Option(help="The signing key's file; default: the configured one.")]


@app.command(name="list")
def list_keys(path: KeyPath = None) -> None:
    """The ring: ids, algorithms, validity."""
    with _sentences():
        for key in read_ring(path or _configured()):
            times = [("from", key.not_before), ("until", key.not_after), ("revoked", key.revoked_at)]
            print(key.keyid, key.algorithm, *(f"{word} {iso(moment)}" for word, moment in times if moment))


@app.command()
def rotate(
    algorithm: Annotated[Algorithm, typer.Option(help="P-256 is FIPS' choice, and model.sig's.")] = Algorithm.ed25519,
    path: KeyPath = None,
) -> None:
    """Make a new key, introduced by a statement under the present one. Workers take it from their next job on."""
    with _sentences():
        new = rotate_key(path or _configured(), algorithm=algorithm.value)
    print(f"{new.keyid} signs from now on; the key before it signs along for {OVERLAP.days} days")


@app.command()
def revoke(keyid: Annotated[str, typer.Argument(help="As `list` shows it.")], path: KeyPath = None) -> None:
    """End a key: nothing that it ever signed counts any more."""
    with _sentences():
        revoke_key(path or _configured(), keyid)
    print(f"{keyid} counts no more; publish the ring, verifiers learn it from there")


@contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        message = f"no signing key at {error.filename} yet: a worker makes it when it starts; --path names another"
        typer.echo(message, err=True)
        raise typer.Exit(1) from None
    except (KeyFileError, OSError) as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from None


def _configured() -> Path:
    from app.settings import Settings

    return Settings().signing_key_path
