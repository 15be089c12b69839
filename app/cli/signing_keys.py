"""`permafrost keys signing`: list, rotate and revoke the keys that sign evidence. Run it where the key file is."""

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

app = typer.Typer(
    help="List, rotate and revoke the keys that sign evidence.", no_args_is_help=True, rich_markup_mode=None
)


class Algorithm(StrEnum):
    ed25519 = "ed25519"
    p256 = "ecdsa-p256"


KeyPath = Annotated[Path | None, typer.Option(help="File of the signing key; default: PERMAFROST_SIGNING_KEY.")]


@app.command(name="list")
def list_keys(path: KeyPath = None) -> None:
    """List the key ring: ids, algorithms, validity."""
    with _exit_with_message():
        for key in read_ring(path or _configured()):
            times = [("from", key.not_before), ("until", key.not_after), ("revoked", key.revoked_at)]
            print(key.keyid, key.algorithm, *(f"{word} {iso(moment)}" for word, moment in times if moment))


@app.command()
def rotate(
    algorithm: Annotated[
        Algorithm, typer.Option(help="ecdsa-p256 where FIPS or model.sig need it.")
    ] = Algorithm.ed25519,
    path: KeyPath = None,
) -> None:
    """Create a new key, introduced by a statement that the current key signs. Workers use it from their next job on."""
    with _exit_with_message():
        new = rotate_key(path or _configured(), algorithm=algorithm.value)
    print(f"{new.keyid} signs from now on; the previous key also signs for {OVERLAP.days} more days")


@app.command()
def revoke(keyid: Annotated[str, typer.Argument(help="Key id, as `list` shows it.")], path: KeyPath = None) -> None:
    """Revoke a key: verifiers reject everything that it ever signed."""
    with _exit_with_message():
        revoke_key(path or _configured(), keyid)
    print(f"{keyid} is revoked; publish the key ring, from which verifiers learn of it")


@contextmanager
def _exit_with_message() -> Iterator[None]:
    """Print a key file's problem, in the block, as one sentence and exit with code 1."""
    try:
        yield
    except FileNotFoundError as error:
        message = (
            f"no signing key at {error.filename} yet: a worker creates it when it starts; --path sets another file"
        )
        typer.echo(message, err=True)
        raise typer.Exit(1) from None
    except (KeyFileError, OSError) as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from None


def _configured() -> Path:
    from app.settings import Settings

    return Settings().signing_key_path
