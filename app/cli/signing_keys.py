"""`permafrost keys signing`: the keys that sign evidence. Run it where the key file is, or the signing command."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.output import AsJson, print_json
from app.errors import SignerUnavailable
from app.evidence.format.keys import KeyFileError, TrustedKey, iso, read_ring
from app.evidence.format.rotation import OVERLAP, public_half
from app.evidence.format.rotation import add as add_key
from app.evidence.format.rotation import introduce as introduce_key
from app.evidence.format.rotation import revoke as revoke_key
from app.evidence.format.rotation import rotate as rotate_key
from app.jsontypes import JsonDict

app = typer.Typer(
    help="List, add, rotate and revoke the keys that sign evidence.", no_args_is_help=True, rich_markup_mode=None
)


class Algorithm(StrEnum):
    ed25519 = "ed25519"
    p256 = "ecdsa-p256"


class Beside(StrEnum):
    mldsa = "ml-dsa-65"


KeyPath = Annotated[Path | None, typer.Option(help="File of the signing key; default: PERMAFROST_SIGNING_KEY.")]


@app.command(name="list")
def list_keys(path: KeyPath = None, as_json: AsJson = False) -> None:
    """List the key ring: ids, algorithms, validity."""
    with _exit_with_message():
        ring = read_ring(_place(path)[0])
    if as_json:
        print_json([_described(key) for key in ring])
        return
    for key in ring:
        times = [("from", key.not_before), ("until", key.not_after), ("revoked", key.revoked_at)]
        print(key.keyid, key.algorithm, *(f"{word} {iso(moment)}" for word, moment in times if moment))


@app.command()
def rotate(
    algorithm: Annotated[
        Algorithm, typer.Option(help="ecdsa-p256 where FIPS or model.sig need it.")
    ] = Algorithm.ed25519,
    path: KeyPath = None,
    as_json: AsJson = False,
) -> None:
    """Create a new key, introduced by a statement that the current key signs. Workers use it from their next job on."""
    with _exit_with_message():
        place, command = _place(path)
        if command:
            raise KeyFileError(
                "the key is behind PERMAFROST_SIGNER: make the new one there, then `permafrost keys signing introduce`"
            )
        new = rotate_key(place, algorithm=algorithm.value)
    _say(
        place,
        new.keyid,
        f"{new.keyid} signs from now on; the previous key also signs for {OVERLAP.days} more days",
        as_json,
    )


@app.command()
def add(
    algorithm: Annotated[Beside, typer.Option(help="ML-DSA (FIPS 204), for the years after Ed25519.")] = Beside.mldsa,
    path: KeyPath = None,
    as_json: AsJson = False,
) -> None:
    """Create a key that signs beside the current one, which introduces it. Workers use it from their next job on."""
    with _exit_with_message():
        place, command = _place(path)
        new = add_key(place, algorithm=algorithm.value, command=command)
    sentence = f"{new.keyid} ({new.algorithm}) signs beside the current key from now on"
    where = f"its public half, for --require-key: {public_half(place, new.keyid)}"
    _say(place, new.keyid, f"{sentence}\n{where}", as_json)


@app.command()
def introduce(
    public: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Public key (PEM) of the new key.")],
    path: KeyPath = None,
    as_json: AsJson = False,
) -> None:
    """Introduce a key that is made elsewhere, such as in an HSM, by a statement that the current key signs.

    After it, put the public key in the place of the current one and change PERMAFROST_SIGNER.
    """
    with _exit_with_message():
        place, command = _place(path)
        new = introduce_key(place, public, command=command)
    _say(
        place,
        new.keyid,
        f"{new.keyid} is in the ring; copy {public} to {place.with_suffix('.pub')} to sign with it",
        as_json,
    )


@app.command()
def revoke(
    keyid: Annotated[str, typer.Argument(help="Key id, as `list` shows it.")],
    path: KeyPath = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a key: verifiers reject everything that it ever signed."""
    with _exit_with_message():
        place, command = _place(path)
        revoke_key(place, keyid, command=command)
    _say(place, keyid, f"{keyid} is revoked; publish the key ring, from which verifiers learn of it", as_json)


def _say(place: Path, keyid: str, sentence: str, as_json: bool) -> None:
    """What became of a key: a sentence, or the key as the ring lists it."""
    if not as_json:
        print(sentence)
        return
    with _exit_with_message():
        print_json(next(_described(key) for key in read_ring(place) if key.keyid == keyid))


def _described(key: TrustedKey) -> JsonDict:
    times = {"not_before": key.not_before, "not_after": key.not_after, "revoked_at": key.revoked_at}
    moments = {name: iso(moment) if moment else None for name, moment in times.items()}
    return {"keyid": key.keyid, "algorithm": key.algorithm, **moments}


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
    except (KeyFileError, SignerUnavailable, OSError) as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from None


def _place(path: Path | None) -> tuple[Path, str]:
    """The key's path, and the command that signs with it. A path that is given stands for a file."""
    if path is not None:
        return path, ""
    from app.settings import Settings

    settings = Settings()
    return settings.signing_key_path, settings.signer
