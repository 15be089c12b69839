"""The transparency log at 100 and at a million entries: an append until it is signed, and a proof of inclusion.

The entries before are made up and put into the tables and tiles directly; what is measured goes the way of a worker and
of the API: the fastest of some, since other processes of a machine make all slower.
"""

import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from statistics import median

from app.db import Database
from app.evidence.format.log_proof import Entry, base_entry, statement_entry
from app.evidence.format.note import LogHead, Note, sign
from app.evidence.format.tiles import Tree
from app.evidence.transparency.journal import Journal, grown, load_key
from app.evidence.transparency.proofs import proof_of
from app.evidence.transparency.tile_files import PREFIX, TileFiles
from app.storage.blobs import Storage
from benchmarks.figure import Figure
from benchmarks.stand_in import best, folder, in_turn
from migrations.tables import tables

FEW, MANY = 100, 1_000_000
RUNS, PROOFS, ROUNDS = 60, 40, 7


def figures() -> Iterable[Figure]:
    with folder() as place:
        logs = {size: filled(place / str(size), size) for size in (FEW, MANY)}
        numbers = count()
        works: dict[str, Callable[[], object]] = {
            str(size): partial(append, log, numbers) for size, log in logs.items()
        }
        yield from compared("append, signed", [min(each) for each in in_turn(works, RUNS).values()])
        chosen = random.Random(0).sample(range(FEW), PROOFS)
        proofs = [by_entry(log, [at * size // FEW for at in chosen]) for size, log in logs.items()]
        yield from compared("inclusion proof", proofs)
        for log in logs.values():
            log.db.close()


def compared(what: str, seconds: Sequence[float]) -> Iterable[Figure]:
    few, many = (1e3 * each for each in seconds)
    yield Figure(f"log: {what}, at {FEW:,} entries", few, "ms")
    yield Figure(f"log: {what}, at {MANY:,} entries", many, "ms")
    yield Figure(f"log: {what}, {MANY:,} to {FEW:,}", many / few, "x", "at most 2")


def append(log: Journal, numbers: Iterator[int]) -> None:
    at = next(numbers)
    log.enter(statement_entry(b"statement %d" % at, b"recipe", job=f"ftjob-{at}", attempt=1))


def by_entry(log: Journal, places: Sequence[int]) -> float:
    """The median over entries anywhere in the log, of the fastest of some proofs of each."""
    return median(best(partial(prove, log, place), ROUNDS) for place in places)


def prove(log: Journal, place: int) -> None:
    assert proof_of(log.db, log.storage, made_up(place).leaf.hex()) is not None


def made_up(at: int) -> Entry:
    return base_entry(sha256(b"%d" % at).hexdigest(), name=str(at))


def filled(place: Path, size: int) -> Journal:
    """A log of made-up entries."""
    place.mkdir()
    db, storage = Database(f"sqlite:///{place}/log.db"), Storage(f"file://{place}/blobs")
    tables().create_all(db.engine)
    log = Journal(db, storage, load_key(place / "log.key"))
    files = TileFiles(storage)
    tiles: dict[tuple[int, int], bytes] = {}
    for path, raw in grown((made_up(at).raw for at in range(size)), old=0, new=size, kept=files.read):
        target = place / "blobs" / PREFIX / str(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(raw)  # without the flush that a worker waits for
        if path.level is not None:
            tiles[path.level, path.index] = raw
    head = LogHead(log.key.origin, size, Tree(size, lambda level, index, _: tiles[level, index]).root())
    note = Note(head.text, (sign(head.text, log.key.private, log.key.origin),))
    with sqlite3.connect(place / "log.db") as connection:
        connection.executemany(
            "INSERT INTO log_entries (created_at, leaf, subject, entry, position) VALUES (?, ?, ?, ?, ?)",
            (
                ("2026-01-01 00:00:00.000000", entry.leaf.hex(), entry.subject, entry.raw, at)
                for at, entry in ((at, made_up(at)) for at in range(size))
            ),
        )
        state = (1, str(log.key.public), size, size, str(note))
        connection.execute("INSERT INTO log_state (id, key, sequenced, size, checkpoint) VALUES (?, ?, ?, ?, ?)", state)
    files.write_checkpoint(str(note))
    return log
