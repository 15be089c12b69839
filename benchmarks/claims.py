"""The statement about a model of many tensors: building, signing, parsing, judging by itself."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from app.evidence.format.envelope import seal
from app.evidence.format.keys import generate
from app.evidence.format.parse import read
from app.evidence.format.statement import FileRef, Predicate, Reading, Row, build
from app.evidence.format.strict import read_json
from app.evidence.format.tree import root
from app.evidence.verifier.verify import objections
from app.freeze.policy import Policy
from benchmarks.figure import Figure
from benchmarks.stand_in import best

TENSORS = 1_000
RUNS = 5


def figures() -> Iterable[Figure]:
    predicate, key = claim_about(TENSORS), generate()
    payload = build(predicate)
    readings = [row.result for row in predicate.rows if row.result]
    yield Figure(f"root over {TENSORS} tensors", 1e3 * best(lambda: root(readings), RUNS), "ms")
    made = 1e3 * best(lambda: json.dumps(seal(build(predicate), [key])), RUNS)
    yield Figure(f"statement for {TENSORS} tensors, signed", made, "ms", "at most 50")
    yield Figure("its size", len(payload) / 1e3, "kB")
    yield Figure("reading it", 1e3 * best(lambda: read(read_json(payload)), RUNS), "ms")
    yield Figure("judging it as a verifier would", 1e3 * best(lambda: objections(payload), RUNS), "ms")


def claim_about(tensors: int) -> Predicate:
    """A frozen encoder of this many tensors under a trained head."""
    files = (FileRef("model.safetensors", 1, digest("file")),)
    rows = [frozen(at) for at in range(tensors - 1)] + [head()]
    return claim_of(rows, {"freeze": ["encoder.**"]}, base_files=files, result_files=files)


def claim_of(
    rows: Iterable[Row],
    policy: Mapping[str, Any],
    *,
    base_files: tuple[FileRef, ...],
    result_files: tuple[FileRef, ...],
) -> Predicate:
    normal = Policy.from_json(policy)
    return Predicate(
        job_id="ftjob-0",
        attempt=1,
        nonce=None,
        issued_at=datetime.now(UTC),
        policy=normal.to_json(),
        policy_digest=normal.digest(),
        base_files=base_files,
        result_files=result_files,
        rows=tuple(sorted(rows, key=lambda row: row.name.encode())),
        observed={"checks": 2, "first_step": 0, "last_step": 10, "fingerprint": "xxh3-128"},
        metadata={"format": "pt"},
    )


def frozen(at: int) -> Row:
    name = f"encoder.layer.{at // 16}.part.{at % 16}.weight"
    reading = Reading(name, "F32", (384, 384), 4 * 384 * 384, digest(name))
    types = ("Classifier", "Encoder", "ModuleList", "Layer", "ModuleList", "Linear")
    return Row(
        name=name,
        role="frozen",
        mechanism="requires_grad",
        rule="rule-1",
        module_types=types,
        base=reading,
        result=reading,
        loaded=reading.sha256,
        trained=reading.sha256,
        changed=False,
    )


def head() -> Row:
    before = Reading("head.weight", "F32", (4, 384), 4 * 4 * 384, digest("before"))
    after = before._replace(sha256=digest("after"))
    types = ("Classifier", "Linear")
    return Row(name="head.weight", role="trainable", module_types=types, base=before, result=after, changed=True)


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
