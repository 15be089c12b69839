"""Attacks on what accompanies a statement: further signatures, timestamps, the log's proof."""

import base64
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509

from app.evidence.format import envelope
from app.evidence.format.envelope import PAYLOAD_TYPE, TIMESTAMP, pae
from app.evidence.format.keys import TrustedKey, generate
from app.evidence.format.recipe import MEMBER, build
from app.evidence.format.timestamp import in_order
from tests import authority
from tests.authority import Authority
from tests.tamper.attacks import DAY, Options, attack
from tests.tamper.kit import KEY, NOW, World
from tests.tamper.recipes import honest as recipe_of

BESIDE = generate("ml-dsa-65")


def hybrid(world: World, **options: Any) -> dict[str, Any]:
    """Signed by both keys; the reader trusts both and wants both."""
    world.sign(keys=[KEY, BESIDE])
    both = (TrustedKey(KEY.public_pem), TrustedKey(BESIDE.public_pem))
    return {"keys": both, "required_keys": both[1:], **options}


@attack("24-without-the-signature-that-is-required", only="required_keys")
def _(world: World) -> Options:
    """Who can forge Ed25519 one day leaves the signature of ML-DSA out."""
    options = hybrid(world)
    world.sign(keys=[KEY])
    return options


@attack("24-required-signature-of-another-statement", only="required_keys")
def _(world: World) -> Options:
    options = hybrid(world)
    sealed = world.sign(keys=[KEY])
    other = BESIDE.sign(pae(PAYLOAD_TYPE, b"{}"))
    sealed["signatures"].append({"keyid": BESIDE.keyid, "sig": base64.b64encode(other).decode()})
    world.publish(sealed)
    return options


@attack("37-required-key-that-was-revoked", only="required_keys")
def _(world: World) -> Options:
    options = hybrid(world)
    revoked = TrustedKey(BESIDE.public_pem, revoked_at=NOW + DAY)
    return {**options, "keys": (TrustedKey(KEY.public_pem), revoked), "required_keys": (revoked,)}


@attack("24-recipe-without-the-signature-that-is-required", only="recipe_required_keys")
def _(world: World) -> Options:
    """Both keys signed the statement, and the one that is broken signed a recipe."""
    options = hybrid(world)
    sealed = world.sign(keys=[KEY, BESIDE])
    world.publish(sealed | {MEMBER: envelope.seal(build(recipe_of(world)), [KEY])})
    return options


# Timestamps


@cache
def tsa(name: str = "TSA") -> Authority:
    return authority.make(Path(tempfile.mkdtemp(prefix="permafrost-tsa-")) / "tsa", name=name)


def trusting(*authorities: Authority) -> dict[str, Any]:
    return {"tsa_roots": tuple(x509.load_pem_x509_certificate(each.roots.read_bytes()) for each in authorities)}


def stamped(world: World, by: Authority | None = None, of: Callable[[bytes], bytes] = bytes, **options: Any) -> None:
    """Sign the world's claim, and put a timestamp beside the signature (or what `of` makes of it)."""
    sealed = world.sign(**options)
    token = (by or tsa()).stamp(of(base64.b64decode(sealed["signatures"][0]["sig"])))
    world.publish(sealed | {TIMESTAMP: base64.b64encode(in_order(token)).decode()})


@attack("37-no-timestamp-where-one-is-required", only="timestamp_given")
def _(world: World) -> Options:
    world.sign()
    return trusting(tsa())


@attack("37-timestamp-of-an-authority-that-nobody-trusts", only="timestamp_authority")
def _(world: World) -> Options:
    stamped(world, by=tsa("Other"))
    return trusting(tsa())


@attack("35-timestamp-of-another-statement", only="timestamp_subject")
def _(world: World) -> Options:
    """An honest one, of what was signed earlier."""
    stamped(world, of=lambda signature: signature[::-1])
    return trusting(tsa())


@attack("35-timestamp-of-a-signature-that-nobody-trusts", only="timestamp_subject")
def _(world: World) -> Options:
    """It is in the envelope, and was there years before the one that counts."""
    stranger = generate()
    stamped(world, keys=[stranger, KEY])
    return trusting(tsa())


@attack("37-dated-later-than-it-was-stamped", only="timestamp_order")
def _(world: World) -> Options:
    """The statement says that it was made when its signature had long existed."""
    later = datetime.now(UTC) + timedelta(days=400)
    stamped(world, predicate=world.predicate(issued_at=later))
    return {"now": later, **trusting(tsa())}


@attack("12-timestamp-that-is-garbage")
def _(world: World) -> Options:
    sealed = world.sign()
    world.publish(sealed | {TIMESTAMP: base64.b64encode(bytes(99)).decode()})
    return trusting(tsa())


@attack("12-timestamp-that-is-a-list")
def _(world: World) -> Options:
    sealed = world.sign()
    world.publish(sealed | {TIMESTAMP: [1, {}]})
    return trusting(tsa())
