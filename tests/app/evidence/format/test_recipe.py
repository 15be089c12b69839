"""The recipe's payload: SLSA Provenance v1, and the same recipe when it is read again."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.evidence.format.recipe import BUILD_TYPE, BUILDER, Recipe, Reported, build
from app.evidence.format.recipe_reading import read
from app.evidence.format.statement import FileRef
from app.evidence.format.strict import read_json
from tests.tamper import recipes
from tests.tamper.kit import World
from tools import peers

#: Reads a recipe with in-toto's own bindings for SLSA Provenance v1, its signature with securesystemslib. Arguments:
#: attestation, public key, folder of the result. A verifier of SLSA ignores fields with a vendor's prefix.
READER = """
import base64, hashlib, json, pathlib, sys
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

attestation, public, result = map(pathlib.Path, sys.argv[1:])
raw = json.loads(attestation.read_text())["recipe"]
key = SSlibKey.from_crypto(load_pem_public_key(public.read_bytes()), keyid=raw["signatures"][0]["keyid"])
envelope = Envelope.from_dict(raw)
envelope.verify([key], 1)
document = json.loads(envelope.payload)
message = ParseDict(document, StatementMessage())
Statement.copy_from_pb(message).validate()
for subject in message.subject:
    assert hashlib.sha256((result / subject.name).read_bytes()).hexdigest() == subject.digest["sha256"], subject.name
ours = {name: document["predicate"]["runDetails"].pop(f"permafrost_{name}") for name in ("observed", "reported")}
provenance = ParseDict(document["predicate"], Provenance())  # refuses every other field that SLSA does not have
definition, run = provenance.build_definition, provenance.run_details
print(json.dumps({
    "type": [message.type, message.predicate_type],
    "buildType": definition.build_type,
    "seed": definition.external_parameters["seed"],
    "dependencies": {one.name: dict(one.digest) for one in definition.resolved_dependencies},
    "builder": run.builder.id,
    "invocation": run.metadata.invocation_id,
    "seconds": (run.metadata.finished_on.ToDatetime() - run.metadata.started_on.ToDatetime()).total_seconds(),
}))
"""


def made(root: Path) -> Recipe:
    world = World(root)
    world.sign()
    return recipes.honest(world)


def test_what_is_built_is_read(tmp_path: Path) -> None:
    """With all that a recipe may have, and with as little as possible."""
    full = made(tmp_path)
    observed = full.observed._replace(validation=FileRef("validation", 7, "aa" * 32), adapter=None, losses=2)
    said = replace(
        full.reported,
        loss=0.5,
        result_step=3,
        exact=False,
        not_deterministic=("a kernel",),
        resumed=(4,),
        environment={"threads": 1},
    )
    full = full._replace(observed=observed, reported=said)
    bare = full._replace(reported=Reported(), observed=observed._replace(validation=None, lock=None, base_origin=None))
    for recipe in (full, bare):
        found = read(read_json(build(recipe)))
        assert found == recipe._replace(subjects=tuple(sorted(recipe.subjects)))


def test_it_is_provenance_of_slsa(tmp_path: Path) -> None:
    """The fields that the specification requires, with its names; ours have a vendor's prefix, as it asks."""
    document: Any = json.loads(build(made(tmp_path)))
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    definition, run = document["predicate"]["buildDefinition"], document["predicate"]["runDetails"]
    assert {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"} == set(definition)
    assert all(one["name"] and one["digest"] for one in definition["resolvedDependencies"])
    assert run["builder"]["id"]
    assert set(run) - {"builder", "metadata"} == {"permafrost_observed", "permafrost_reported"}


def test_the_bindings_of_in_toto_read_it(tmp_path: Path) -> None:
    """Nobody here wrote them: signature, subjects, and each field of SLSA's own schema; other files are refused."""
    world = World(tmp_path)
    world.sign()
    recipes.sign(world)
    (tmp_path / "key.pub").write_text(world.key.public_pem)
    python = peers.environment("model-signing") / "bin" / "python"
    command = [str(python), "-c", READER, str(world.attestation), str(tmp_path / "key.pub"), str(world.result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    recipe, found = recipes.honest(world), json.loads(done.stdout)
    assert found["type"] == ["https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"]
    assert (found["buildType"], found["builder"]) == (BUILD_TYPE, BUILDER)
    assert (found["seed"], found["invocation"], found["seconds"]) == (7, "ftjob-1/1", 120)
    assert found["dependencies"]["training"] == {"sha256": recipe.observed.training.sha256}
    assert found["dependencies"]["base"] == {"permafrostRoot": recipe.observed.base_root}
    (world.result / "config.json").write_text("{}")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
