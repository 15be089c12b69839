"""Witnesses of the log, over a real socket: one that is honest, and what others may answer."""

import base64
import hashlib
import re
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete

from app.evidence.format.log_proof import base_entry, read_proof
from app.evidence.format.note import COSIGNATURE, LogHead, NoteError, cosign, key_of, read_note, time_of
from app.evidence.format.tiles import roots_of_consistency
from app.evidence.transparency.journal import Journal, load_key
from app.evidence.transparency.proofs import proof_of
from app.evidence.transparency.tables import LogEntry, LogState
from app.evidence.transparency.tile_files import TileFiles
from app.storage.blobs import Storage
from tests.conftest import Deployment
from tests.listening import listening
from tests.patience import PATIENCE
from tests.servers import free_port
from tools import peers
from worker.supervisor.witnesses import Cosigner, ask_all, read_witnesses

KEY, NAME = Ed25519PrivateKey.generate(), "witness.example/w1"
ENTRIES = [base_entry(hashlib.sha256(b"%d" % at).hexdigest(), name=f"m{at}") for at in range(20)]


class Honest(BaseHTTPRequestHandler):
    """Cosigns what goes on from what it has seen, as c2sp.org/tlog-witness says."""

    seen: LogHead | None = None
    says: tuple[int, bytes] | None = None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        status, answer = type(self).says or self._answer(body)
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _answer(self, body: str) -> tuple[int, bytes]:
        head, _, raw = body.partition("\n\n")
        old, *path = head.split("\n")
        note = read_note(raw)
        new, seen = LogHead.parse(note.text), type(self).seen
        known = seen.size if seen else 0
        if old != f"old {known}":
            return 409, b"%d\n" % known
        if seen:
            roots = roots_of_consistency(known, new.size, [base64.b64decode(each) for each in path], seen.root)
            if roots != (seen.root, new.root):
                return 422, b"not consistent"
        type(self).seen = new
        return 200, str(cosign(note.text, KEY, NAME, at=1_700_000_000)).encode()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def witness() -> Iterator[tuple[Cosigner, type[Honest]]]:
    handler = type("Handler", (Honest,), {})
    key = key_of(KEY, NAME, COSIGNATURE)
    with listening(handler) as url:
        yield read_witnesses(f" {key} {url}/ ,")[0], handler


@pytest.fixture
def log(deployment: Deployment, tmp_path: Path) -> Journal:
    return Journal(deployment.db, Storage(f"file://{tmp_path / 'blobs'}"), load_key(tmp_path / "log.key"))


def test_a_witness_follows_the_log(log: Journal, witness: tuple[Cosigner, type[Honest]]) -> None:
    """Each new checkpoint is cosigned once, in the database, the storage and proofs; a fork is not."""
    there, handler = witness
    assert ask_all(log, [there]) == 0
    for size in (1, 7, 20):
        log.enter(*ENTRIES[:size])
        assert ask_all(log, [there]) == 1 and ask_all(log, [there]) == 0
        note = read_note(TileFiles(log.storage).checkpoint() or b"")
        line = note.by(there.key)
        assert line is not None and f"{time_of(line):%Y}" == "2023" and note.by(log.key.public) is not None
    proof = read_proof(proof_of(log.db, log.storage, ENTRIES[3].leaf.hex()) or "")
    assert proof.checkpoint.by(there.key) is not None
    handler.seen = LogHead(log.key.origin, 5, bytes(32))
    log.enter(base_entry("00" * 32, name="later"))
    assert ask_all(log, [there]) == 0


@pytest.mark.parametrize(
    "says",
    [
        (200, b""),
        (200, b"garbage"),
        (200, str(cosign("another text\n", KEY, NAME, at=1)).encode()),
        (200, b"x" * (1 << 17)),
        (409, b"5"),
        (409, b"99\n"),
        (500, b"\xff"),
    ],
    ids=range(7),
)
def test_an_answer_that_is_no_cosignature_is_not_taken(
    log: Journal, witness: tuple[Cosigner, type[Honest]], says: tuple[int, bytes]
) -> None:
    """The checkpoint stays as it was, and the log goes on."""
    there, handler = witness
    log.enter(*ENTRIES[:3])
    before = log.checkpoint()
    handler.says = says
    assert ask_all(log, [there, Cosigner(there.key, "http://127.0.0.1:9")]) == 0
    assert log.checkpoint() == before


def test_a_cosignature_of_an_older_checkpoint_is_not_put_on_a_newer_one(log: Journal) -> None:
    """Where another worker has gone on meanwhile."""
    log.enter(*ENTRIES[:3])
    note = read_note(log.checkpoint() or "")
    log.enter(*ENTRIES[:4])
    assert not log.add_lines(note, [cosign(note.text, KEY, NAME, at=1)])


@pytest.mark.parametrize(
    "text",
    ["x", f"{key_of(KEY, NAME, COSIGNATURE)} ftp://x", f"{key_of(KEY, NAME)} http://x"],
    ids=["no key", "no HTTP", "a log's key"],
)
def test_what_is_no_witness_is_refused(text: str) -> None:
    """With a reason."""
    assert read_witnesses("") == ()
    with pytest.raises(NoteError):
        read_witnesses(text)


@pytest.mark.slow
def test_a_witness_that_nobody_here_wrote_cosigns(log: Journal, tmp_path: Path) -> None:
    """`aics-witness` as its users run it: it follows the log, and refuses one that goes on from other entries."""
    try:
        command = str(peers.command("aics"))
    except peers.PeerError as error:
        pytest.skip(f"aics-witness cannot be had: {error}")
    config = ["--config", str(tmp_path / "witness.json")]

    def run(*arguments: str) -> str:
        return subprocess.run([command, *arguments, *config], capture_output=True, text=True, check=True).stdout

    made = run("init", "--name", NAME)
    run("add-log", "--origin", log.key.origin, "--vkey", str(log.key.public))
    address = f"127.0.0.1:{free_port()}"
    serving = subprocess.Popen([command, "serve", "--listen", address, *config], stderr=subprocess.DEVNULL)
    try:
        line = re.search(rf"{re.escape(NAME)}\+\S+", made)
        assert line is not None
        (there,) = read_witnesses(f"{line[0]} http://{address}")
        log.enter(*ENTRIES[:3])
        deadline = time.monotonic() + PATIENCE
        while not (cosigned := ask_all(log, [there])) and time.monotonic() < deadline:
            time.sleep(0.1)  # until it listens
        log.enter(*ENTRIES)
        assert (cosigned, ask_all(log, [there])) == (1, 1)
        assert read_note(log.checkpoint() or "").by(there.key) is not None

        other = Journal(log.db, Storage(f"file://{tmp_path / 'forked'}"), log.key)
        _forget(log)
        other.enter(*ENTRIES[5:], *ENTRIES[:5], base_entry("00" * 32, name="later"))
        assert ask_all(other, [there]) == 0
    finally:
        serving.terminate()
        serving.wait()


def _forget(log: Journal) -> None:
    """What a signer does who begins a second history under one key."""
    with log.db.write() as session:
        session.execute(delete(LogEntry))
        session.execute(delete(LogState))
