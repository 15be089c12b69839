"""One file of weights, and one more for each module that has its own."""

import hashlib
import json
from pathlib import Path

from app.evidence.format.compose import Slice
from app.storage.blobs import Storage
from tests.app.evidence.format.test_modules import listed
from worker.supervisor.weight_files import weight_files


def slices_of(storage: Storage, folder: Path, *names: str) -> list[Slice]:
    """Tensors of one float each, behind one another in a blob."""
    (folder / "file").write_bytes(bytes(4 * len(names)))
    blob, digest = storage.put(folder / "file").key, hashlib.sha256(bytes(4)).hexdigest()
    return [Slice(name, "F32", (1,), blob, 4 * at, 4, digest) for at, name in enumerate(names)]


def test_tensors_go_into_the_file_of_their_module(tmp_path: Path) -> None:
    """Under the names that the library reads there, and under their own ones among all tensors of the model."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "modules.json").write_text(json.dumps(listed("Transformer", "Pooling", "Dense")))
    storage = Storage(f"file://{tmp_path}/blobs")
    slices = slices_of(storage, tmp_path, "encoder.weight", "2_Dense.linear.weight")
    files = weight_files(slices, {"format": "pt"}, main="model.safetensors", folder=tmp_path / "out", storage=storage)

    assert [file.ref.name for file in files] == ["model.safetensors", "2_Dense/model.safetensors"]
    assert [each.name for file in files for each in file.layout.slices] == ["encoder.weight", "linear.weight"]
    rows = [tensor for file in files for tensor in file.tensors()]
    assert [(row["file"], row["name"]) for row in rows] == [
        ("model.safetensors", "encoder.weight"),
        ("2_Dense/model.safetensors", "2_Dense.linear.weight"),
    ]


def test_without_modules_there_is_one_file(tmp_path: Path) -> None:
    """Also where a tensor of the model's own is called as a module's would be."""
    storage = Storage(f"file://{tmp_path}/blobs")
    slices = slices_of(storage, tmp_path, "2_Dense.linear.weight")
    (file,) = weight_files(slices, {}, main="model.safetensors", folder=tmp_path, storage=storage)
    assert [each.name for each in file.layout.slices] == ["2_Dense.linear.weight"]
