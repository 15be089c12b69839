"""Attacks on what accompanies a statement: further signatures, timestamps, the log's proof."""

import base64
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.evidence.format import envelope
from app.evidence.format.envelope import LOG_PROOF, PAYLOAD_TYPE, RECIPE_TIMESTAMP, TIMESTAMP, pae
from app.evidence.format.keys import TrustedKey, generate
from app.evidence.format.log_proof import Entry, LogProof, statement_entry
from app.evidence.format.note import COSIGNATURE, LogHead, Note, cosign, key_of
from app.evidence.format.note import sign as sign_note
from app.evidence.format.recipe import MEMBER, build
from app.evidence.format.tiles import Tree, leaf_hash
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


def recipe_stamped(
    world: World, by: Authority | None = None, of: Callable[[bytes], bytes] = bytes, **observed: Any
) -> dict[str, Any]:
    """Sign the world's claim and a recipe, with a timestamp beside each signature (or what `of` makes of the recipe's).

    The claim is dated four minutes ahead, as far as clocks may differ.
    """
    now = datetime.now(UTC)
    world.sign()
    honest = recipe_of(world)
    recipe = build(honest._replace(observed=honest.observed._replace(**observed)))
    sealed = world.sign(world.predicate(issued_at=now + timedelta(minutes=4))) | {MEMBER: envelope.seal(recipe, [KEY])}
    first, second = (base64.b64decode(each["signatures"][0]["sig"]) for each in (sealed, sealed[MEMBER]))
    tokens = {TIMESTAMP: tsa().stamp(first), RECIPE_TIMESTAMP: (by or tsa()).stamp(of(second))}
    world.publish(sealed | {field: base64.b64encode(in_order(token)).decode() for field, token in tokens.items()})
    return {"now": now, **trusting(tsa())}


@attack("37-recipe-timestamp-of-an-authority-that-nobody-trusts", only="recipe_timestamp_authority")
def _(world: World) -> Options:
    return recipe_stamped(world, by=tsa("Other"))


@attack("35-recipe-timestamp-of-another-recipe", only="recipe_timestamp_subject")
def _(world: World) -> Options:
    """A recipe that was swapped later keeps the timestamp of the first."""
    return recipe_stamped(world, of=lambda signature: signature[::-1])


@attack("37-recipe-stamped-before-its-run-ended", only="recipe_timestamp_order")
def _(world: World) -> Options:
    """A recipe that was signed ahead, of a run that had still to be made."""
    return recipe_stamped(world, finished_at=datetime.now(UTC) + timedelta(minutes=8))


@attack("12-recipe-timestamp-that-is-garbage")
def _(world: World) -> Options:
    options = recipe_stamped(world)
    sealed = json.loads(world.attestation.read_bytes())
    world.publish(sealed | {RECIPE_TIMESTAMP: "%%%"})
    return options


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


# Proofs of a log

LOG = Ed25519PrivateKey.generate()
WITNESS = Ed25519PrivateKey.generate()
ORIGIN = "log.example/permafrost"
BEFORE = int((NOW - DAY).timestamp())


def reading_the_log(**options: Any) -> dict[str, Any]:
    return {"log_keys": (key_of(LOG, ORIGIN),), "require_log": True, **options}


def logged(
    world: World,
    *,
    entry: Callable[[Entry], Entry] = lambda entry: entry,
    note: Callable[[Note], Note] = lambda note: note,
    origin: str = ORIGIN,
    key: Ed25519PrivateKey = LOG,
    witnessed: int | None = None,
) -> dict[str, Any]:
    """Sign the world's claim and a recipe, and put a log's proof beside them: of `entry`, under a checkpoint."""
    sealed = world.sign()
    payload, recipe = base64.b64decode(sealed["payload"]), build(recipe_of(world))
    predicate = world.predicate()
    mine = entry(statement_entry(payload, recipe, job=predicate.job_id, attempt=predicate.attempt))
    leaves = [leaf_hash(b"one before"), mine.leaf, leaf_hash(b"one after")]
    tree = Tree(3, lambda level, index, width: b"".join(leaves[:width]))
    text = LogHead(origin, 3, tree.root()).text
    lines = [sign_note(text, key, origin)]
    lines += [cosign(text, WITNESS, "witness.example", at=witnessed)] if witnessed is not None else []
    proof = LogProof(1, tuple(tree.inclusion(1)), note(Note(text, tuple(lines))))
    published = sealed | {MEMBER: envelope.seal(build(recipe_of(world)), [KEY]), LOG_PROOF: str(proof)}
    world.publish(published)
    return published


@attack("35-no-proof-of-the-log-where-one-is-required", only="log_proof_given")
def _(world: World) -> Options:
    """Signed and handed to one reader, and hidden from all others."""
    world.sign()
    return reading_the_log()


@attack("35-proof-of-another-statement", only="log_included")
def _(world: World) -> Options:
    """An honest one, of what the log has about the same attempt."""
    logged(
        world, entry=lambda mine: mine._replace(digests=tuple({**dict(mine.digests), "statement": "0" * 64}.items()))
    )
    return reading_the_log()


@attack("35-proof-of-another-recipe", only="log_included")
def _(world: World) -> Options:
    """The statement is the logged one, and the recipe beside it is not."""
    logged(world, entry=lambda mine: mine._replace(digests=tuple({**dict(mine.digests), "recipe": "0" * 64}.items())))
    return reading_the_log()


@attack("35-proof-of-another-attempt", only="log_included")
def _(world: World) -> Options:
    """So that a second statement about the attempt would stand apart in the log."""
    logged(world, entry=lambda mine: mine._replace(subject="0" * 64))
    return reading_the_log()


@attack("24-proof-of-a-log-that-nobody-trusts", only="log_signed")
def _(world: World) -> Options:
    """A log of the signer's own, under the name of the real one."""
    logged(world, key=Ed25519PrivateKey.generate())
    return reading_the_log()


@attack("24-checkpoint-of-another-log-under-the-same-key", only="log_signed")
def _(world: World) -> Options:
    """The key signs for the log that it is named after, and for no other."""
    logged(world, note=lambda note: Note(note.text, (sign_note(note.text, LOG, ORIGIN),)), origin="other.example/log")
    return reading_the_log()


@attack("27-checkpoint-that-was-edited", only="log_signed")
def _(world: World) -> Options:
    """By an extension line below the root, which the signature covers."""
    logged(world, note=lambda note: Note(note.text + "extension\n", note.lines))
    return reading_the_log()


@attack("24-checkpoint-that-a-witness-has-not-seen", only="log_witnessed")
def _(world: World) -> Options:
    """A log that shows this reader other entries than the rest of the world."""
    logged(world)
    return reading_the_log(log_witnesses=(key_of(WITNESS, "witness.example", COSIGNATURE),))


@attack("24-cosignature-of-another-checkpoint", only="log_witnessed")
def _(world: World) -> Options:
    """The witness saw the log's honest face."""
    other = cosign(LogHead(ORIGIN, 3, bytes(32)).text, WITNESS, "witness.example", at=BEFORE)
    logged(world, note=lambda note: note.with_lines([other]))
    return reading_the_log(log_witnesses=(key_of(WITNESS, "witness.example", COSIGNATURE),))


@attack("37-cosigned-in-the-future", only="log_witnessed")
def _(world: World) -> Options:
    logged(world, witnessed=int((NOW + DAY).timestamp()))
    return reading_the_log(log_witnesses=(key_of(WITNESS, "witness.example", COSIGNATURE),))


@attack("12-proof-of-the-log-that-is-garbage")
def _(world: World) -> Options:
    world.publish(world.sign() | {LOG_PROOF: "c2sp.org/tlog-proof@v1\nindex 00\n\n"})
    return reading_the_log()


@attack("12-proof-of-the-log-that-is-a-list")
def _(world: World) -> Options:
    world.publish(world.sign() | {LOG_PROOF: [1, {}]})
    return reading_the_log()
