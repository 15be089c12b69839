"""What a job wants of its evidence."""

from __future__ import annotations

from app.specs.evidence import EvidenceSpec


def test_defaults_of_evidence() -> None:
    """A budget of nothing is one, and not the default."""
    assert EvidenceSpec().budget == 0.01
    assert EvidenceSpec.from_json({"overhead_budget": 0}).budget == 0
