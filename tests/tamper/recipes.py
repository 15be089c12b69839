"""Attacks on the recipe beside a statement: it is another one's, or says what the statement contradicts."""

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from app.evidence.format import envelope
from app.evidence.format.envelope import pae
from app.evidence.format.examples import ExamplesRoot
from app.evidence.format.keys import SigningKey, TrustedKey, generate
from app.evidence.format.recipe import MEMBER, Observed, Recipe, Reported, Request, SavedState, build
from app.evidence.format.statement import FileRef
from app.freeze.policy import Policy
from tests.tamper.attacks import Options, attack
from tests.tamper.kit import KEY, NOW, World

ANOTHER = "ab" * 32


def honest(world: World) -> Recipe:
    """What an honest supervisor would say of this world, whose statement is signed."""
    predicate = world.predicate(rows=())
    return Recipe(
        job_id=predicate.job_id,
        attempt=predicate.attempt,
        nonce=predicate.nonce,
        version="0.1.0",
        subjects=tuple((file.name, file.sha256) for file in predicate.result_files),
        request=Request(
            task="text-classification",
            model={"type": "transformers", "path": "toy"},
            data={"format": "jsonl"},
            seed=7,
            hyperparameters={"n_epochs": "auto"},
            policy=world.policy,
            device="cpu",
        ),
        observed=Observed(
            training=FileRef("training", 120, "11" * 32),
            base_root=json.loads(world.payload())["predicate"]["base"]["root"],
            base_origin={"model": "toy", "kind": "base"},
            policy_digest=Policy.from_json(world.policy).digest(),
            code="22" * 32,
            lock="33" * 32,
            packages={"torch": "2.13.0"},
            started_at=NOW - timedelta(minutes=2),
            finished_at=NOW,
            checkpoints=(SavedState(step=10, root="44" * 32, files=(FileRef("state.json", 9, "55" * 32),)),),
        ),
        reported=Reported(
            steps=20, tokens=640, hyperparameters={"n_epochs": 3}, examples=ExamplesRoot(count=8, root=ANOTHER)
        ),
    )


def sign(
    world: World,
    recipe: Recipe | None = None,
    *,
    document: Callable[[dict[str, Any]], Any] | None = None,
    payload: Callable[[bytes], bytes] | None = None,
    keys: list[SigningKey] | None = None,
) -> dict[str, Any]:
    """Sign the world's claim, and beside it a recipe (the honest one unless given) after editing it."""
    sealed = world.sign()
    raw = build(recipe or honest(world))
    if document:
        parsed = json.loads(raw)
        document(parsed)
        raw = json.dumps(parsed).encode()
    if payload:
        raw = payload(raw)
    sealed |= {MEMBER: envelope.seal(raw, [world.key] if keys is None else keys)}
    world.publish(sealed)
    return sealed


def observing(world: World, **changes: Any) -> Recipe:
    world.sign()
    recipe = honest(world)
    return recipe._replace(observed=recipe.observed._replace(**changes))


@attack("24-recipe-under-another-key", only="recipe_signature")
def _(world: World) -> Options:
    sign(world, keys=[generate()])


@attack("37-recipe-under-a-key-that-was-revoked", only="recipe_signature")
def _(world: World) -> Options:
    """It signed along with one that counts for the statement, and the recipe alone."""
    old = generate()
    revoked = TrustedKey(old.public_pem, revoked_at=NOW - timedelta(days=1))
    sealed = world.sign(keys=[world.key, old])
    world.publish(sealed | {MEMBER: envelope.seal(build(honest(world)), [old])})
    return {"keys": (*world.trusted, revoked)}


@attack("25-recipe-with-a-flood-of-signatures", only="recipe_signature_count")
def _(world: World) -> Options:
    sealed = sign(world)
    sealed[MEMBER]["signatures"] *= 17
    world.publish(sealed)


@attack("26-recipe-of-another-payload-type", only="recipe_payload_type")
def _(world: World) -> Options:
    sealed = world.sign()
    message = pae("application/json", raw := build(honest(world)))
    inside = envelope.seal(raw, [KEY]) | {"payloadType": "application/json"}
    inside["signatures"][0]["sig"] = _base64(KEY.sign(message))
    world.publish(sealed | {MEMBER: inside})


@attack("26-recipe-of-another-predicate-type", only="recipe_type")
def _(world: World) -> Options:
    sign(world, document=lambda one: one.update(predicateType="https://slsa.dev/provenance/v0.2"))


@attack("28-recipe-with-a-key-twice", only="recipe_keys_once")
def _(world: World) -> Options:
    """One reader takes the first seed, another one the second."""
    sign(world, payload=lambda raw: raw.replace(b'"seed":7', b'"seed":8,"seed":7'))


@attack("28-recipe-with-an-unknown-field", only="recipe_fields")
def _(world: World) -> Options:
    sign(world, document=lambda one: one["predicate"]["runDetails"].update(approved=True))


@attack("38-recipe-of-other-files", only="recipe_subjects")
def _(world: World) -> Options:
    world.sign()
    recipe = honest(world)
    (name, _), *rest = recipe.subjects
    sign(world, recipe._replace(subjects=((name, ANOTHER), *rest)))


@attack("35-recipe-of-another-job", only="recipe_job")
def _(world: World) -> Options:
    world.sign()
    sign(world, honest(world)._replace(job_id="ftjob-2"))


@attack("35-recipe-of-another-attempt", only="recipe_job")
def _(world: World) -> Options:
    world.sign()
    sign(world, honest(world)._replace(attempt=2))


@attack("36-recipe-with-an-old-nonce", only="recipe_job")
def _(world: World) -> Options:
    world.sign()
    sign(world, honest(world)._replace(nonce="n-0"))


@attack("32-recipe-over-another-base", only="recipe_base")
def _(world: World) -> Options:
    sign(world, observing(world, base_root=ANOTHER))


@attack("30-recipe-with-another-policy", only="recipe_policy")
def _(world: World) -> Options:
    sign(world, observing(world, policy_digest=ANOTHER))


@attack("37-recipe-of-a-run-after-its-statement", only="recipe_dates")
def _(world: World) -> Options:
    sign(world, observing(world, finished_at=NOW + timedelta(hours=1)))


@attack("37-recipe-of-a-run-that-ended-before-it-began", only="recipe_dates")
def _(world: World) -> Options:
    sign(world, observing(world, started_at=NOW + timedelta(minutes=1)))


@attack("29-recipe-that-was-taken-away", only="recipe_required")
def _(world: World) -> Options:
    world.sign()
    return {"require_recipe": True}


@attack("39-recipe-of-a-newer-version-where-one-is-required", only="recipe_version")
def _(world: World) -> Options:
    sign(world, document=newer)
    return {"require_recipe": True}


@attack("28-recipe-that-is-no-envelope")
def _(world: World) -> Options:
    world.publish(world.sign() | {MEMBER: "none"})


@attack("28-recipe-without-its-data")
def _(world: World) -> Options:
    sign(world, document=lambda one: one["predicate"]["buildDefinition"]["resolvedDependencies"].pop(1))


def newer(document: dict[str, Any]) -> None:
    """A recipe as a later version may write it, with what this one does not know."""
    document["predicate"]["buildDefinition"] = {"buildType": "urn:permafrost:fine-tuning:v9", "other": {"than": "now"}}


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
