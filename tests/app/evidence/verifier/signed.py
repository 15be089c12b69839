"""`permafrost verify` over a world of the tamper suite."""

from pathlib import Path

from app.evidence.verifier import verify
from tests.tamper.kit import World


def run(world: World, *options: str | Path) -> int:
    given = [world.attestation, "--key", world.root / "key.pub", "--result", world.result, *options]
    return verify.main([str(option) for option in given])
