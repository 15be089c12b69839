"""The verifier in one file is the verifier: it says the same of every attack."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from app.evidence.verifier.context import Inputs
from app.evidence.verifier.verify import verify
from tests.tamper import audited, loading, papers, quantised, recipes
from tests.tamper.attacks import ATTACKS
from tests.tamper.kit import NOW, World
from tools.verifier import build

# Not the file's command line, whose clock is the machine's: the same function that it calls, from the same file.
SAYS = """
import json, pickle, sys
from dataclasses import replace
from cryptography.x509 import load_der_x509_certificate as certificate
sys.path.insert(0, sys.argv[1])
from app.evidence.verifier.verify import __file__ as place, verify
assert place.startswith(sys.argv[1]), place
cases = pickle.load(sys.stdin.buffer)
given = [(raw, replace(inputs, tsa_roots=tuple(map(certificate, inputs.tsa_roots)))) for raw, inputs in cases]
reports = [verify(raw, inputs) for raw, inputs in given]
print(json.dumps([report.to_json() for report in reports]))
"""


def test_the_one_file_verifier_says_the_same_of_every_attack(tmp_path: Path) -> None:
    """Verdict, problems and facts, for an honest world and for each attack at the highest level that it is made for."""
    assert audited and loading and papers and quantised and recipes  # their attacks are in the list as well
    file = build(tmp_path / "verify.pyz")
    honest = World(tmp_path / "honest")
    honest.sign()
    cases = {"honest": (honest.attestation.read_bytes(), _inputs(honest, 3))}
    for number, attack in enumerate(ATTACKS):
        world = attack.world(tmp_path / str(number))
        options = attack.run(world) or {}
        cases[attack.id] = (world.attestation.read_bytes(), _inputs(world, attack.levels[-1], **options))
    command = [sys.executable, "-I", "-c", SAYS, str(file)]
    sent = pickle.dumps([(raw, _without_objects(inputs)) for raw, inputs in cases.values()])
    done = subprocess.run(command, cwd=tmp_path, input=sent, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    for (name, (raw, inputs)), said in zip(cases.items(), json.loads(done.stdout), strict=True):
        assert said == json.loads(json.dumps(verify(raw, inputs).to_json())), name
        assert (said["verdict"] == "verified") == (name == "honest"), name


def _without_objects(inputs: Inputs) -> Any:
    """With certificates as bytes: as objects they cannot be sent to another process."""
    return replace(inputs, tsa_roots=tuple(root.public_bytes(Encoding.DER) for root in inputs.tsa_roots))  # type: ignore[misc]


def _inputs(world: World, level: int, **options: object) -> Inputs:
    given: dict[str, object] = {"keys": world.trusted, "now": NOW, "result": world.result, "previous": world.chain()}
    given |= {"base_root": world.pinned} if level == 2 else {"base": world.base} if level == 3 else {}
    return Inputs(attestation=world.attestation, **(given | options))  # type: ignore[arg-type]
