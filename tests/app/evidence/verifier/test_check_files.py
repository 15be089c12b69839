"""What may be in a result's folder beside the files of the statement."""

from tests.app.evidence.verifier.signed import run
from tests.tamper.kit import (
    World,
)


def test_attestation_and_signature_may_lie_beside_the_result(world: World) -> None:
    """They are not part of it; another attestation that nobody asked about is an extra file."""
    inside = world.result / "attestation.json"
    world.attestation.rename(inside)
    world.attestation = inside
    (world.result / "model.sig").write_text("{}")
    assert run(world) == 0
    (world.result / "attestation.old.json").write_text("{}")
    assert run(world) == 1
