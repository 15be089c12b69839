"""Results that hold only the changed tensors are completed from the base."""

import pytest

from tests.app.evidence.verifier.signed import run
from tests.tamper.kit import (
    World,
    file_bytes,
    flipped,
    tensor,
)


def changed_only(world: World) -> None:
    """Leave in the result's folder only the tensors that the base does not have."""
    tensors = world.result_weights["model.safetensors"]
    kept = {name: value for name, value in tensors.items() if not name.startswith("bert.enc.")}
    (world.result / "model.safetensors").unlink()
    (world.result / "model.changed.safetensors").write_bytes(file_bytes(kept))


def test_changed_tensors_with_the_base_make_the_result(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """The composed file's digest is the signed one; without the base there is nothing to compose it from."""
    changed_only(world)
    assert run(world, "--base", world.base) == 0
    assert "level 3" in capsys.readouterr().out
    assert run(world) == 2
    assert "--base" in capsys.readouterr().out


def test_changed_tensors_are_checked_like_any_others(world: World) -> None:
    """A changed byte, a tensor too many, one too few, another base."""
    changed_only(world)
    path = world.result / "model.changed.safetensors"
    honest = path.read_bytes()
    path.write_bytes(flipped(honest, len(honest) - 1))
    assert run(world, "--base", world.base) == 1
    tensors = world.result_weights["model.safetensors"]
    kept = {name: value for name, value in tensors.items() if not name.startswith("bert.enc.")}
    path.write_bytes(file_bytes({**kept, "extra": tensor("F32", 1, seed="extra")}))
    assert run(world, "--base", world.base) == 1
    path.write_bytes(file_bytes({name: value for name, value in kept.items() if name != "head.w"}))
    assert run(world, "--base", world.base) == 1
    path.write_bytes(honest)
    assert run(world, "--base", world.base) == 0
    world.base_weights["model.safetensors"]["enc.0.w"] = tensor("F32", 8, 8, seed="other base")
    base = world.base / "model.safetensors"
    base.write_bytes(file_bytes(world.base_weights["model.safetensors"]))
    assert run(world, "--base", world.base) == 1
