"""The command line of `permafrost verify`, in groups as its --help shows them."""

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path

from app.evidence.verifier import packed

_WIDTH = 100  # columns of --help


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. A packed folder brings the result, and keys; an attestation alone needs both."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not packed.is_packed(options.attestation):
        given = {"--key": options.key, "--result": options.result}
        if missing := [name for name, value in given.items() if not value]:
            parser.error(f"the following arguments are required: {', '.join(missing)}")
    return options


class _Help(argparse.HelpFormatter):
    """The text of --help. argparse makes a formatter for every option, and imports much to find out how wide it is."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_WIDTH)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="permafrost verify",
        description="Check a signed statement that frozen weights are bit-identical to the base model's.",
        epilog="Exit status: 0 verified, 1 rejected, 2 could not check.",
        formatter_class=_Help,
    )
    parser.add_argument(
        "attestation",
        type=Path,
        help="the signed statement (a DSSE envelope in JSON), or a folder of `permafrost pack` with its result",
    )
    _add_models(parser.add_argument_group("result and base"))
    _add_trust(parser.add_argument_group("whom to trust"))
    _add_demands(parser.add_argument_group("what else the statement must have"))
    _add_digests(parser.add_mutually_exclusive_group())
    parser.add_argument("--json", action="store_true", help="write the report as JSON")
    return parser


def _add_models(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--result", type=Path, help="folder of the fine-tuned model; default for a packed folder: the one in it"
    )
    group.add_argument("--base", type=Path, help="folder of the base model (level 3)")
    group.add_argument("--base-root", type=_hex, metavar="HEX", help="the base's published root (level 2)")
    _add_files(
        group,
        "--base-registry",
        metavar="FILE",
        help="a signed list of bases with their roots (level 2); repeatable, and all of them must agree",
    )
    group.add_argument(
        "--base-name", metavar="OWNER/NAME@COMMIT", help="the base in the registries; default: the statement's origin"
    )
    _add_files(
        group,
        "--previous",
        metavar="ATTESTATION",
        help="for a fine-tune of a fine-tune: the attestation of its base, then of the base before; repeatable",
    )
    group.add_argument(
        "--level", type=int, choices=(1, 2, 3), default=1, help="reject a result that reaches a lower level"
    )


def _add_trust(group: argparse._ArgumentGroup) -> None:
    _add_files(
        group,
        "--key",
        help="trusted public key (PEM) or ring of keys; repeatable; default for a packed folder: the keys in it",
    )
    group.add_argument("--ring", type=Path, help="keys to trust as far as a trusted one introduced them")
    _add_files(group, "--registry-key", help="public key that signs registries; repeatable")
    _add_files(
        group,
        "--log-key",
        metavar="FILE",
        help="public key of the transparency log that you trust (a vkey); default: those of key rings; repeatable",
    )


def _add_demands(group: argparse._ArgumentGroup) -> None:
    _add_files(
        group,
        "--require-key",
        metavar="FILE",
        help="reject a statement that this public key has not signed as well, such as one of ML-DSA; repeatable",
    )
    _add_files(
        group,
        "--tsa-roots",
        metavar="FILE",
        help="certificates (PEM) of time-stamping authorities: reject a statement that none of them has stamped",
    )
    group.add_argument(
        "--require-recipe", action="store_true", help="reject an attestation without a recipe that can be read"
    )
    group.add_argument(
        "--require-log", action="store_true", help="reject a statement without a proof that the log has it"
    )
    _add_files(
        group,
        "--log-witness",
        metavar="FILE",
        help="reject a proof whose checkpoint this witness (a vkey) has not cosigned; repeatable",
    )
    group.add_argument("--policy", help="reject a statement with another freeze policy: a file, or JSON")
    group.add_argument("--job", help="reject a statement about another job")
    group.add_argument("--nonce", help="reject a statement without the nonce that was sent with the job")


def _add_digests(group: argparse._MutuallyExclusiveGroup) -> None:
    group.add_argument(
        "--whole",
        dest="whole_up_to",
        action="store_const",
        const=math.inf,
        help="also recompute the SHA-256 of large weight files as a whole, which takes about twice as long",
    )
    group.add_argument(
        "--quick", dest="whole_up_to", action="store_const", const=0, help="do not recompute it for small files either"
    )


def _add_files(parser: argparse._ActionsContainer, flag: str, *, help: str, metavar: str | None = None) -> None:
    """An option that takes a file and may be repeated."""
    parser.add_argument(flag, type=Path, action="append", default=[], metavar=metavar, help=help)


def _hex(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text.lower()):
        raise argparse.ArgumentTypeError("64 hexadecimal digits are needed")
    return text.lower()
