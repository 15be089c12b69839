"""Reading statements strictly: missing, mistyped and unknown fields are named by path."""

import json
from dataclasses import replace
from typing import Any

import pytest

from app.evidence.format.fields import StatementError
from app.evidence.format.parse import read, strangers
from app.evidence.format.statement import Reading, Row, build
from tests.app.evidence.format.statements import PREDICATE


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("subject", None),
        ("predicate", []),
        ("predicate.job.id", 7),
        ("predicate.job.attempt", "2"),
        ("predicate.job.attempt", True),
        ("predicate.job.attempt", -1),
        ("predicate.issuedAt", "yesterday"),
        ("predicate.issuedAt", "2026-01-02T03:04:05"),
        ("predicate.base.root", "AB" * 32),
        ("predicate.base.root", "ab"),
        ("predicate.base.count", 1.0),
        ("predicate.policy.digest", "0" * 64),
        ("predicate.resultKind", "partial"),
        ("predicate.observed.violations", "none"),
        ("predicate.result.metadata", {"format": 1}),
        ("predicate.parameters", [{"name": "a"}]),
        ("predicate.parameters", [{"name": "a", "kind": "parameter", "role": "Frozen", "rule": "r", "changed": False}]),
        ("predicate.parameters", [{"name": "a", "kind": "parameter", "role": "new", "rule": "r", "changed": 0}]),
    ],
)
def test_refuses_fields_of_another_form(path: str, value: Any) -> None:
    """The error names the path."""
    document = json.loads(build(PREDICATE))
    *folders, last = path.split(".")
    target = document
    for folder in folders:
        target = target[folder]
    target[last] = value
    with pytest.raises(StatementError, match=last):
        read(document)


@pytest.mark.parametrize(
    "path", ["predicate", "predicate.base", "predicate.result.metadata", "predicate.policy.digest"]
)
def test_refuses_missing_fields(path: str) -> None:
    """Nothing is filled in for a signer who left it out."""
    document = json.loads(build(PREDICATE))
    *folders, last = path.split(".")
    target = document
    for folder in folders:
        target = target[folder]
    del target[last]
    with pytest.raises(StatementError, match="missing"):
        read(document)


def test_names_unknown_fields_by_path() -> None:
    """Anywhere but in free-form values."""
    reading = Reading("a", "F32", (), 4, "0" * 64)
    row = Row(name="a", role="frozen", base=reading, result=reading, changed=False)
    document = json.loads(build(replace(PREDICATE, rows=(row,))))
    document["extra"] = 1
    document["predicate"]["parameters"][0]["base"]["Dtype"] = "F32"
    document["predicate"]["subject"] = []
    assert sorted(strangers(document)) == ["extra", "predicate.parameters[0].base.Dtype", "predicate.subject"]
