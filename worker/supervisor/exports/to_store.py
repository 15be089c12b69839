"""Sends a result below a prefix of an object store; the attestation last, so that what has one is whole."""

from collections.abc import Mapping
from pathlib import Path

from app.exports.destinations import Destination
from app.jsontypes import JsonDict
from worker.supervisor.exports.content import ATTESTATION
from worker.supervisor.sources import object_store


def send(destination: Destination, result: Path, *, keys: Mapping[str, str] | None, name: str) -> JsonDict:
    """Sending again writes the same objects again. Raises SourceRefused or Later."""
    root = f"{destination.place}/{destination.path}"
    paths = [path for path in result.rglob("*") if path.is_file()]
    paths.sort(key=lambda path: (path.name == ATTESTATION, str(path)))
    files = object_store.store(keys)
    with object_store.explained(root, keys=keys, name=name):
        for path in paths:
            files.put_file(str(path.resolve()), f"{root}/{path.relative_to(result)}")
    return {"url": f"s3://{root}/", "files": len(paths)}
