import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.evidence.format.fields import StatementError
from app.evidence.format.parse import read, strangers
from app.evidence.format.statement import FileRef, Predicate, Reading, Row, build, row_order, total
from app.evidence.format.strict import read_json
from tests.app.evidence import strategies

CLAIM = Predicate(
    job_id="ftjob-1",
    attempt=2,
    nonce=None,
    issued_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    policy={"default": "train", "rules": []},
    policy_digest="0" * 64,
    base_files=(FileRef("base.safetensors", 1 << 60, "1" * 64),),
    result_files=(FileRef("model.safetensors", 5, "2" * 64), FileRef("config.json", 6, "3" * 64)),
    rows=(),
    observed={"checks": 3, "first_step": 0, "last_step": 9, "fingerprint": "xxh3-128"},
)


def claims() -> st.SearchStrategy[Predicate]:
    rows = st.lists(
        strategies.rows(),
        max_size=4,
        unique_by=(
            lambda row: row.name,
            lambda row: row.base.name if row.base else row.name + "/base",
            lambda row: row.result.name if row.result else row.name + "/result",
        ),
    )
    return st.builds(
        lambda rows, nonce, kind, metadata, previous, violations: replace(
            CLAIM,
            rows=tuple(sorted(rows, key=row_order)),
            nonce=nonce,
            result_kind=kind,
            metadata=metadata,
            previous=previous,
            violations=tuple(violations),
        ),
        rows,
        st.none() | strategies.names,
        st.sampled_from(["full", "adapter"]),
        strategies.metadata,
        st.none() | strategies.digests,
        st.lists(strategies.names, max_size=2),
    )


@settings(max_examples=60)
@given(claims())
def test_reads_what_it_builds(predicate: Predicate) -> None:
    """Any claim comes back whole, large integers included, and has no field that the form does not know."""
    document = read_json(build(predicate))
    statement = read(document)
    assert statement.predicate == predicate
    assert list(strangers(document)) == []
    assert statement.base == total([row.base for row in predicate.rows if row.base])
    assert [name for name, _ in statement.subjects] == ["config.json", "model.safetensors"]


def test_base_files_are_no_subjects() -> None:
    """In-toto matches subjects by digest alone: a base would pass for the result."""
    names = [subject["name"] for subject in json.loads(build(CLAIM))["subject"]]
    assert "base.safetensors" not in names


def test_integers_stay_integers() -> None:
    """Shapes and sizes above 2^53 are written as whole numbers."""
    assert b'"size":1152921504606846976' in build(CLAIM)


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
    document = json.loads(build(CLAIM))
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
    document = json.loads(build(CLAIM))
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
    document = json.loads(build(replace(CLAIM, rows=(row,))))
    document["extra"] = 1
    document["predicate"]["parameters"][0]["base"]["Dtype"] = "F32"
    document["predicate"]["subject"] = []
    assert sorted(strangers(document)) == ["extra", "predicate.parameters[0].base.Dtype", "predicate.subject"]
