"""Fetches a base model from below a prefix of an object store: `python -m worker.supervisor.sources.store_model`.

The same files are taken as of a hub's repository. Their digests together are the model's revision.
"""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from app.evidence.format.digest import sha256_file
from app.files.references import StoreObject
from app.jsontypes import JsonDict
from app.webhooks.addresses import Reach
from worker.supervisor.hub import chosen
from worker.supervisor.process.fetcher import take
from worker.supervisor.process.tied import LIFELINE, die_with
from worker.supervisor.sources import object_store
from worker.supervisor.sources.answer import write_answer
from worker.supervisor.sources.arriving import Arriving, SourceRefused
from worker.supervisor.sources.network import confine

#: Modules of a sentence-transformers model are one folder down.
_DEPTH: Final = 2


def main(answer: str, pipe: str, *arguments: str) -> None:
    die_with(LIFELINE)
    prefix, into, max_bytes, allowed, name = arguments
    secret = take(pipe)
    confine(Reach.parse(allowed))
    message = f"models may not be fetched from the address of {prefix} (see PERMAFROST_FETCH_ALLOW)"
    write_answer(
        answer,
        lambda: fetch(prefix, Path(into), int(max_bytes), keys=secret, name=name),
        address_refused=(message, "source_address_refused"),
        later="source_unavailable",
    )


def fetch(prefix: str, into: Path, max_bytes: int, *, keys: Mapping[str, str] | None, name: str) -> JsonDict:
    """Fetches the model's files into a folder, and goes on with those of an earlier try. Returns the revision."""
    root = prefix.partition("://")[2].strip("/")
    with object_store.explained(root, keys=keys, name=name):
        found = object_store.store(keys).find(root, maxdepth=_DEPTH, detail=True)
    sizes = {str(PurePosixPath(path).relative_to(root)): int(info["size"] or 0) for path, info in found.items()}
    if not sizes:
        raise SourceRefused(f"there is nothing below {prefix}", code="source_not_found")
    names = chosen(sizes)
    if (size := sum(sizes[each] for each in names)) > max_bytes:
        message = (
            f"{prefix} takes {size:,} bytes, and this worker fetches {max_bytes:,} at most (PERMAFROST_MAX_HUB_BYTES)"
        )
        raise SourceRefused(message, code="model_too_large")

    bucket, _, folder = root.partition("/")
    for each in names:
        (into / each).parent.mkdir(parents=True, exist_ok=True)
        with Arriving(into / each, max_bytes, note=into.with_suffix(".versions") / each) as arriving:
            key = f"{folder}/{each}" if folder else each
            object_store.fetch(StoreObject(bucket, key), arriving, keys=keys, name=name)
    return {"revision": revision_of(into, names)}


def revision_of(folder: Path, names: list[str]) -> str:
    """SHA-256 over names and digests of the files, which pins every byte of them."""
    lines = "".join(f"{sha256_file(folder / name)}  {name}\n" for name in sorted(names))
    return hashlib.sha256(lines.encode()).hexdigest()


if __name__ == "__main__":
    main(*sys.argv[1:])
