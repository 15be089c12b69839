"""The log's writing: places, tiles and checkpoints that agree, whoever writes and wherever a writer dies."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pymerkle import InmemoryTree, verify_consistency, verify_inclusion
from sqlalchemy import delete, update

from app.evidence.format.keys import KeyFileError, generate, write_private
from app.evidence.format.log_proof import Entry, base_entry, read_entry
from app.evidence.format.note import LogHead, read_note, signed_state
from app.evidence.format.tiles import TilePath, entries_of, leaf_hash
from app.evidence.transparency import journal as journals
from app.evidence.transparency.journal import Journal, LogRefused, load_key, record
from app.evidence.transparency.proofs import proof_of
from app.evidence.transparency.tables import LogEntry, LogState
from app.evidence.transparency.tile_files import TileFiles
from app.storage.blobs import Storage
from tests.conftest import Deployment


def entries(count: int, *, after: int = 0) -> list[Entry]:
    return [base_entry(hashlib.sha256(b"%d" % at).hexdigest(), name=f"m{at}") for at in range(after, after + count)]


def open_log(deployment: Deployment, tmp_path: Path) -> Journal:
    storage = Storage(f"file://{tmp_path / 'blobs'}")
    return Journal(deployment.db, storage, load_key(tmp_path / "keys" / "log.key"))


@pytest.fixture
def log(deployment: Deployment, tmp_path: Path) -> Journal:
    return open_log(deployment, tmp_path)


def signed(log: Journal) -> LogHead:
    """What the static checkpoint says, which has to be what the database says."""
    raw = TileFiles(log.storage).checkpoint()
    with log.db.read() as session:
        state = session.get_one(LogState, 1)
    assert raw is not None and state.checkpoint == raw.decode() and state.size == state.sequenced
    return signed_state(read_note(raw), [log.key.public])


def logged(log: Journal) -> list[bytes]:
    """Every entry, as the static bundles have them."""
    size, files = signed(log).size, TileFiles(log.storage)
    widths = [min(256, size - index * 256) for index in range(-(-size // 256))]
    return [each for index, width in enumerate(widths) for each in entries_of(files.file(TilePath(None, index, width)))]


def peer(raw: list[bytes]) -> InmemoryTree:
    """The same tree by a library that nobody here wrote."""
    tree = InmemoryTree(algorithm="sha256")
    for each in raw:
        tree.append_entry(each)
    return tree


def test_it_grows_as_rfc_9162_says_over_tiles_of_both_levels(log: Journal) -> None:
    """Roots by another library, at sizes around a full tile; and proofs by ours verify with its functions."""
    sizes, raw = [1, 2, 255, 256, 257, 600], []
    for before, size in zip([0, *sizes], sizes, strict=False):
        log.enter(*entries(size - before, after=before))
        raw = logged(log)
        assert [read_entry(each) for each in raw] == entries(size)
        assert signed(log) == LogHead(log.key.origin, size, peer(raw).get_root())
    tree = TileFiles(log.storage).tree(600)
    theirs = peer(raw)
    for index in (0, 255, 256, 599):
        proof = theirs.prove_inclusion(index + 1, 600)
        assert [bytes(node) for node in proof.path][1:] == tree.inclusion(index)
        verify_inclusion(leaf_hash(raw[index]), theirs.get_root(), proof)
    for old in (1, 255, 256, 257, 599):
        verify_consistency(theirs.get_root(old), theirs.get_root(600), theirs.prove_consistency(old, 600))
    assert not list((log.storage.root or Path()).glob("log/tile/0/000.p/*"))  # parts of a full tile are not kept


def test_the_same_entry_is_in_the_log_once(log: Journal) -> None:
    """However often it is entered; a log with nothing in it has no checkpoint."""
    assert log.enter() is None and not log.catch_up()
    (one,) = entries(1)
    assert log.enter(one, one) == log.enter(one) == signed(log)
    assert signed(log).size == 1 and not log.catch_up()


def test_several_writers_make_one_log(deployment: Deployment, tmp_path: Path) -> None:
    """Each entry has one place, no place is empty, and the tiles make the signed root."""
    logs = [open_log(deployment, tmp_path) for _ in range(6)]

    def write(number: int) -> None:
        for at in range(10):
            logs[number].enter(*entries(3, after=1000 * number + 3 * at))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    raw = logged(logs[0])
    wanted = [entry.raw for number in range(6) for entry in entries(30, after=1000 * number)]
    assert len(raw) == 180 and sorted(raw) == sorted(wanted)
    assert signed(logs[0]).root == peer(raw).get_root()


@pytest.mark.parametrize("step", ["_publish", "_sign", "_write_checkpoint", "remove_parts"])
def test_a_writer_that_dies_anywhere_leaves_a_log_that_goes_on(
    log: Journal, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After places were given, after tiles were written, after the signature: the next writer finishes it."""
    log.enter(*entries(255))
    with monkeypatch.context() as patch:
        owner = TileFiles if step == "remove_parts" else Journal
        patch.setattr(owner, step, _die)
        with pytest.raises(KeyboardInterrupt):
            log.enter(*entries(2, after=255))
    log.enter(*entries(1, after=257))
    assert logged(log) == [entry.raw for entry in entries(258)]
    assert signed(log).root == peer(logged(log)).get_root()


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_entries_that_wait_are_signed_by_a_sweep(log: Journal) -> None:
    """Those of a transaction that only recorded them."""
    with log.db.write() as session:
        record(session, entries(1)[0])
    assert proof_of(log.db, log.storage, entries(1)[0].leaf.hex()) is None
    assert log.catch_up() and signed(log).size == 1


def damaged(path: str, change: Callable[[bytes], bytes | None]) -> Callable[[Journal], None]:
    def act(log: Journal) -> None:
        file = (log.storage.root or Path()) / "log" / path
        changed = change(file.read_bytes())
        if changed is None:
            file.unlink()
        else:
            file.write_bytes(changed)

    return act


@pytest.mark.parametrize(
    "damage",
    [
        damaged("tile/1/000.p/1", lambda _: None),
        damaged("tile/0/001.p/44", lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])),
        damaged("tile/0/001.p/44", lambda raw: raw[:-1]),
    ],
    ids=["lost", "a bit", "cut"],
)
def test_lost_and_damaged_tiles_are_made_again(log: Journal, damage: Callable[[Journal], None]) -> None:
    """From the database, when the log goes on; until then there is no proof, and nothing wrong is signed."""
    log.enter(*entries(300))
    leaf = entries(300)[298].leaf.hex()
    before = proof_of(log.db, log.storage, leaf)
    damage(log)
    assert proof_of(log.db, log.storage, leaf) is None
    assert log.rebuild() == 300
    assert proof_of(log.db, log.storage, leaf) == before
    damage(log)
    log.enter(*entries(1, after=300))
    raw = logged(log)
    assert len(raw) == 301 and signed(log).root == peer(raw).get_root()


def test_a_database_with_another_history_signs_nothing(log: Journal) -> None:
    """An entry that was changed or removed behind the log's back: refused, and no file has changed."""
    log.enter(*entries(300))
    root = log.storage.root or Path()
    files = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    forge = update(LogEntry).where(LogEntry.position == 299)
    for change in (forge.values(entry=b"forged"), delete(LogEntry).where(LogEntry.position == 299)):
        with log.db.write() as session:
            session.execute(change)
        with pytest.raises(LogRefused):
            log.enter(*entries(1, after=500))
        assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == files


def test_an_older_database_forks_nothing_and_takes_back_what_was_published(log: Journal) -> None:
    """Entries after a backup are in the storage alone then: nothing is signed before the database has them again."""
    log.enter(*entries(300))
    with log.db.read() as session:
        state = session.get_one(LogState, 1)
    log.enter(*entries(250, after=300))
    assert log.take_back() == 0
    before = signed(log)
    with log.db.write() as session:
        session.execute(delete(LogEntry).where(LogEntry.position >= 300))
        old = {"size": 300, "sequenced": 300, "checkpoint": state.checkpoint}
        session.execute(update(LogState).values(**old))
        record(session, entries(1, after=301)[0])  # that is among the published ones
    with pytest.raises(LogRefused, match="an older one was restored"):
        log.enter(*entries(1, after=900))
    assert log.take_back() == 250
    assert signed(log) == before
    log.enter(*entries(1, after=900))
    assert logged(log) == [each.raw for each in [*entries(550), *entries(1, after=900)]]
    with log.db.write() as session:
        session.execute(update(LogEntry).where(LogEntry.position == 299).values(entry=b"forged"))
        session.execute(update(LogState).values(**old))
    with pytest.raises(LogRefused, match="go on from other entries"):
        log.take_back()


def test_another_key_signs_nothing(log: Journal, tmp_path: Path) -> None:
    """A log has one name and one key; a key of another kind is none."""
    log.enter(*entries(1))
    other = Journal(log.db, log.storage, load_key(tmp_path / "other.key"))
    with pytest.raises(LogRefused, match="the log is signed by the key"):
        other.enter(*entries(1, after=1))
    write_private(tmp_path / "p256.key", generate("ecdsa-p256"))
    with pytest.raises(KeyFileError, match="no Ed25519 key"):
        load_key(tmp_path / "p256.key")


def test_more_than_a_batch_goes_in_at_once(log: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several transactions, none of which is long."""
    monkeypatch.setattr(journals, "BATCH", 100)
    log.enter(*entries(250))
    assert signed(log).root == peer(logged(log)).get_root()
