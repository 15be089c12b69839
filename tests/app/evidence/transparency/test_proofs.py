"""Proofs of entries, as attestations get them."""

from pathlib import Path

import pytest
from sqlalchemy import select

from app.evidence.format.log_proof import read_proof
from app.evidence.transparency.journal import Journal
from app.evidence.transparency.proofs import proof_of
from app.evidence.transparency.tables import LogEntry
from tests.app.evidence.transparency.test_journal import entries, open_log, signed
from tests.conftest import Deployment


@pytest.fixture
def log(deployment: Deployment, tmp_path: Path) -> Journal:
    return open_log(deployment, tmp_path)


def test_a_proof_is_the_entry_in_the_signed_log(log: Journal) -> None:
    """It is text of c2sp.org/tlog-proof; an entry that the log does not have gets none."""
    log.enter(*entries(5))
    proof = read_proof(proof_of(log.db, log.storage, entries(5)[3].leaf.hex()) or "")
    assert proof.root(entries(5)[3].leaf, size=5) == signed(log).root
    assert proof_of(log.db, log.storage, entries(6)[5].leaf.hex()) is None
    assert proof_of(log.db, log.storage, None) is None
    with log.db.read() as session:
        assert session.scalars(select(LogEntry.position).order_by(LogEntry.position)).all() == [0, 1, 2, 3, 4]
