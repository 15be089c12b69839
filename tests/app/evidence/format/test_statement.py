import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from app.evidence.format.parse import read, strangers
from app.evidence.format.statement import Predicate, build, row_order, total
from app.evidence.format.strict import read_json
from tests.app.evidence import strategies
from tests.app.evidence.format.statements import PREDICATE


def predicates() -> st.SearchStrategy[Predicate]:
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
            PREDICATE,
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
@given(predicates())
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
    names = [subject["name"] for subject in json.loads(build(PREDICATE))["subject"]]
    assert "base.safetensors" not in names


def test_integers_stay_integers() -> None:
    """Shapes and sizes above 2^53 are written as whole numbers."""
    assert b'"size":1152921504606846976' in build(PREDICATE)
