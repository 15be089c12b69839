"""Computes a prefix's results for every example, into memory or into files that a later attempt can use."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from worker.protocol import Reporter
from worker.trainer import determinism
from worker.trainer.data.sampler import Positions
from worker.trainer.models import quantised
from worker.trainer.prefix import reports
from worker.trainer.prefix.kept_results import KeptResults, nbytes
from worker.trainer.prefix.sampling import digest, in_order, row_lengths
from worker.trainer.prefix.serving import Prefix
from worker.trainer.training import prefix_address
from worker.trainer.training.prefix_gain import gain
from worker.trainer.training.prefix_request import Filling, PrefixRequest
from worker.trainer.training.prefix_rows import fill_by_rows
from worker.trainer.training.stop import StopRequest

MEMORY_BYTES = 1 << 30  # results that take more are kept in files
MOST_BYTES = 64 << 30


class DiskSpaceError(OSError):
    """There is no room for a prefix's results."""

    level: Literal["info", "warn"] = "warn"  # of the event


class SeenOnceError(DiskSpaceError):
    """Results that this run would use once are not worth a file."""

    level = "info"


def fill(
    request: PrefixRequest,
    prefix: Prefix,
    digests: Mapping[str, str],
    folder: Path,
    reporter: Reporter,
    stop: StopRequest,
) -> tuple[dict[str, KeptResults], float]:
    """The results by part of the data, and the seconds that computing them took. DiskSpaceError without room."""
    sizes = {name: row_lengths(examples, request.size) for name, examples in request.parts.items()}
    total = sum(nbytes(prefix.cut.kept, count, lengths) for count, lengths in sizes.values())
    key = prefix_address.key(request, prefix, digests) if request.fixed else _key(request, prefix, digests)
    home = folder / f"prefix-{key[:16]}" if total > MEMORY_BYTES else None
    _remove_others(folder, but=home)
    if request.setting == "auto" and not request.reuse and total > MEMORY_BYTES:
        raise SeenOnceError(f"every example is seen once, and they would take {total:,} bytes")
    if total > MOST_BYTES:
        raise DiskSpaceError(f"they would take {total:,} bytes, and {MOST_BYTES:,} is the most that are kept")
    try:
        results = {
            name: KeptResults(prefix.cut.kept, count, lengths=lengths, folder=home / name if home else None)
            for name, (count, lengths) in sizes.items()
        }
    except OSError as error:
        raise DiskSpaceError(str(error)) from error

    reporter.stage("caching")
    began = time.monotonic()
    filling = Filling(request=request, prefix=prefix, results=results, reporter=reporter, stop=stop)
    reused, per_example = fill_by_rows(filling, key) if request.fixed else _fill_by_batches(filling)
    seconds = time.monotonic() - began
    reports.KeptReport(
        cut=prefix.cut,
        examples=sum(len(examples) for examples in request.parts.values()),
        size=total,
        stored="file" if home else "memory",
        quiet=request.setting is True,
        seconds=seconds,
        reused=reused,
        gain=gain(request, prefix, results["training"], filling=seconds, per_example=per_example),
    ).send(reporter)
    return results, seconds


def _fill_by_batches(filling: Filling) -> tuple[int, float | None]:
    """As jobs did before `frozen_dropout` existed, which go on with the same bits. Returns what `fill_by_rows` does."""
    began = time.monotonic()
    parts = filling.request.parts
    reused = sum(_fill_part(filling, name) for name in parts)
    computed = sum(len(examples) for examples in parts.values()) - reused
    return reused, (time.monotonic() - began) / computed if computed else None


def _fill_part(filling: Filling, name: str) -> int:
    """Compute one part of the data; returns how many examples an earlier attempt had computed."""
    request, results, prefix = filling.request, filling.results[name], filling.prefix
    examples = request.parts[name]
    reused = done = 0
    reported = time.monotonic()
    for number, positions in enumerate(in_order(examples, request.size)):
        filling.stop.raise_if_requested()
        batch = examples.batch(positions)
        assert batch.rows is not None
        own = _own_rows(batch.rows, len(positions), len(examples) - done)
        inputs = digest(batch)

        if results.holds(str(number), inputs, batch.rows[own]):
            reused += min(len(positions), len(examples) - done)
        else:
            moved = batch.to(request.device)
            values = prefix.capture(lambda moved=moved: request.compute(moved))  # type: ignore[misc]
            results.put(batch.rows[own], [value[torch.from_numpy(own).to(value.device)] for value in values])
            results.note(str(number), inputs, batch.rows[own])

        done = min(done + len(positions), len(examples))
        reported = filling.report(name, done, reported)
    return reused


def _own_rows(rows: Positions, examples: int, left: int) -> Positions:
    """Indices of the rows that belong to this batch: the last batch is filled up with rows of others."""
    own = min(examples, left)
    rows_per_example = len(rows) // examples
    return np.concatenate([np.arange(own, dtype=np.int64) + side * examples for side in range(rows_per_example)])


def _key(request: PrefixRequest, prefix: Prefix, digests: Mapping[str, str]) -> str:
    """Results in files may be used again where all of this is equal; each batch has a digest of its own besides."""
    content = {
        "prefix": dict(digests),
        "leaves": [[call.path, str(leaf)] for call in prefix.cut.served for leaf in call.leaves],
        "size": request.size,
        "precision": request.precision,
        "environment": determinism.environment(request.device, quantiser=quantised.package_of(request.model)),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _remove_others(folder: Path, *, but: Path | None) -> None:
    """Delete files of other prefixes, which take room that this one may need."""
    for path in folder.glob("prefix-*"):
        if path != but:
            shutil.rmtree(path, ignore_errors=True)
