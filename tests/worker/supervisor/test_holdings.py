"""The verifier sees through the supervisor what it would see in the folders."""

import math
from pathlib import Path
from typing import Any

from app.evidence.format.compose import Slice, compose
from app.evidence.format.digest import read_file, sha256_file
from app.evidence.format.statement import FileRef
from app.evidence.verifier.context import Holdings
from app.evidence.verifier.read_files import read_base, read_result
from app.models.tables import Model
from app.storage.blobs import Storage
from tests.tamper.kit import World
from worker.protocol import Workspace
from worker.supervisor import holdings
from worker.supervisor.artifacts import Artifacts, Result, publish_files
from worker.supervisor.weight_files import WeightFile


def test_result_and_base_are_as_the_verifier_reads_them(tmp_path: Path) -> None:
    world, storage = World(tmp_path / "world"), Storage(f"file://{tmp_path}/blobs")
    files = [FileRef(path.name, path.stat().st_size, sha256_file(path)) for path in world.result.iterdir()]
    expected = read_result(world.result, files, (), metadata={"format": "pt"}, base=None, whole_up_to=math.inf)
    assert seen(holdings.of_result(artifacts(world, storage), storage)) == seen(expected)

    base = Model(id="m", files=[{"name": "model.safetensors"} | file_of(world.base / "model.safetensors")], tensors=[])
    base.files.append({"name": "config.json"} | file_of(world.base / "config.json"))
    readings = read_file(world.base / "model.safetensors").tensors
    base.tensors = [{"name": each.name, "file": "model.safetensors"} for each in readings]
    refs = [FileRef(file["name"], file["size"], file["sha256"]) for file in base.files]
    place = Workspace(world.root)
    assert place.base == world.base
    found = holdings.of_base(base, place, readings)
    assert seen(found) == seen(read_base(world.base, refs, (), whole_up_to=math.inf))


def artifacts(world: World, storage: Storage) -> Artifacts:
    """What the supervisor has read of an attempt whose tensors all changed."""
    weights = world.result / "model.safetensors"
    changed, blob = read_file(weights), storage.put(weights)
    beside = world.root / "beside"
    beside.mkdir()
    for path in world.result.glob("*.json"):
        (beside / path.name).write_bytes(path.read_bytes())
    result = Result([(each.name, "changed", None) for each in changed.tensors], {"format": "pt"}, "full")
    slices = [Slice(t.name, t.dtype, t.shape, blob.key, t.offset, t.nbytes, t.sha256) for t in changed.tensors]
    file = WeightFile(FileRef(weights.name, changed.size, changed.sha256), compose(slices, {"format": "pt"}))
    return Artifacts({}, [], result, {}, changed, blob, [file], publish_files(beside, storage))


def file_of(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256_file(path)}


def seen(held: Holdings) -> tuple[Any, ...]:
    tensors = {name: (each.dtype, each.shape, each.sha256) for name, each in held.tensors().items()}
    return held.files, held.digests, held.documents, tensors, set(held.weights)
