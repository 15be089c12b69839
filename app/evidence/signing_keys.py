"""`permafrost signing-keys`: list, rotate and revoke the keys that sign statements."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from app.evidence.keys import ALGORITHMS, KeyFileError, iso, read_ring
from app.evidence.rotation import OVERLAP, revoke, rotate


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    options = _parser().parse_args(argv)
    path = options.path or _configured()
    try:
        if options.action == "rotate":
            new = rotate(path, algorithm=options.algorithm)
            print(f"{new.keyid} signs from now on; the key before it signs along for {OVERLAP.days} days")
        elif options.action == "revoke":
            revoke(path, options.keyid)
            print(f"{options.keyid} counts no more; publish the ring, verifiers learn it from there")
        else:
            _print(path)
    except (KeyFileError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _print(path: Path) -> None:
    for key in read_ring(path):
        times = [("from", key.not_before), ("until", key.not_after), ("revoked", key.revoked_at)]
        print(key.keyid, key.algorithm, *(f"{word} {iso(moment)}" for word, moment in times if moment))


def _configured() -> Path:
    from app.settings import Settings  # the verifier's machine has no settings, and no signing keys

    return Settings().signing_key_path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="permafrost signing-keys")
    parser.description = "Keys that sign statements. Run where the worker's signing key is."
    parser.add_argument("--path", type=Path, help="the signing key's file (default: the configured one)")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="the ring: ids, algorithms, validity")
    rotating = actions.add_parser("rotate", help="make a new key, introduced by a statement under the present one")
    rotating.add_argument("--algorithm", choices=ALGORITHMS, default="ed25519")
    revoking = actions.add_parser("revoke", help="end a key: nothing that it signed counts any more")
    revoking.add_argument("keyid")
    return parser


if __name__ == "__main__":
    sys.exit(main())
