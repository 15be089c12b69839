"""A signed world, for the tests of the verifier and its parts."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.tamper.kit import KEY, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Signed, with its public key and policy in files."""
    world = World(tmp_path)
    world.sign(world.predicate(issued_at=datetime.now(UTC) - timedelta(minutes=1)))
    (tmp_path / "key.pub").write_text(KEY.public_pem)
    (tmp_path / "policy.json").write_text(json.dumps(world.policy))
    return world
