"""What may be in a result's folder beside the files of the statement."""

from pathlib import Path

from app.evidence.format.templates import FOLDER
from tests.app.evidence.verifier.signed import run
from tests.tamper.kit import World


def test_attestation_and_signature_may_lie_beside_the_result(world: World) -> None:
    """They are not part of it; another attestation that nobody asked about is an extra file."""
    inside = world.result / "attestation.json"
    world.attestation.rename(inside)
    world.attestation = inside
    (world.result / "model.sig").write_text("{}")
    assert run(world) == 0
    (world.result / "attestation.old.json").write_text("{}")
    assert run(world) == 1


def test_published_folders_as_a_base(world: World) -> None:
    """Pickles, exports and code beside the safetensors files are noted: no loader reads them unless it is asked to."""
    world.sign()
    for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.onnx", "modeling_toy.py", "LICENSE"):
        (world.base / name).write_bytes(b"x")
    (world.base / "onnx").mkdir()
    (world.base / "onnx" / "model.onnx").write_bytes(b"x")
    report = world.verify(3)
    assert (report.verdict, report.level) == ("verified", 3), report.problems
    formats, code = (note for note in report.warnings if "beside the base's files" in note)
    assert "flax_model.msgpack, model.onnx, pytorch_model.bin, tf_model.h5" in formats
    assert "modeling_toy.py" in code
    assert not any("beside" in note for note in world.verify(1).warnings)


def test_chat_templates_in_their_folder(tmp_path: Path) -> None:
    """transformers reads nothing else there; a file that is not in the statement is an extra one."""
    name = f"{FOLDER}/tool_use.jinja"
    world = World(tmp_path, result_files={"config.json": b'{"model_type": "toy"}', name: b"{{ messages }}"})
    world.sign()
    assert world.verify(3).verified, world.verify(3).problems
    (world.result / FOLDER / "extra.jinja").write_bytes(b"")
    assert [problem.check for problem in world.verify(3).problems] == ["nothing_extra"]
    (world.result / FOLDER / "extra.jinja").unlink()
    (world.result / name).write_bytes(b"{{ message }}")
    assert {problem.check for problem in world.verify(3).problems} == {"file_digests", "file_sizes"}
