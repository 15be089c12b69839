"""`permafrost log`: a log that shrank, forked or lost something is named, and so is a second statement."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.evidence.format.envelope import LOG_PROOF
from app.evidence.format.log_proof import Entry, LogProof, base_entry, statement_entry
from app.evidence.format.note import COSIGNATURE, LogHead, Note, cosign, key_of, sign
from app.evidence.format.tiles import Tree
from app.evidence.transparency.journal import grown
from app.evidence.verifier import audit_log
from app.evidence.verifier.audit_log import entry_of
from tests.listening import listening
from tests.tamper.kit import World

KEY, ORIGIN = Ed25519PrivateKey.generate(), "log.example/permafrost"
OTHERS = [base_entry(f"{at:064x}", name=str(at)) for at in range(300)]


def write(place: Path, entries: list[Entry], key: Ed25519PrivateKey = KEY, origin: str = ORIGIN) -> Note:
    """A log of these entries in a folder, and its checkpoint."""
    tiles = {}
    for path, raw in grown((each.raw for each in entries), old=0, new=len(entries), kept=lambda *_: b""):
        target = place / str(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(raw)
        tiles[path.level, path.index] = raw
    text = LogHead(origin, len(entries), Tree(len(entries), lambda level, index, _: tiles[level, index]).root()).text
    note = Note(text, (sign(text, key, origin),))
    (place / "checkpoint").write_text(str(note))
    return note


class Log:
    """A log in a folder, and the command over it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder / "log", str(folder / "log")
        (folder / "log.vkey").write_text(str(key_of(KEY, ORIGIN)))
        self.options = ["--log-key", str(folder / "log.vkey")]
        self.notes: dict[int, Path] = {}

    def write(self, entries: list[Entry]) -> Path:
        """Write it anew, and keep its checkpoint."""
        kept = self.folder.with_name(f"kept-{len(entries)}-{len(self.notes)}")
        kept.write_text(str(write(self.folder, entries)))
        self.notes[len(self.notes)] = kept
        return kept

    def run(self, command: str, *options: str | Path) -> int:
        return audit_log.main([command, *map(str, options), "--log", self.place, *self.options])


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_a_log_that_grows_is_accepted(log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From any checkpoint that was kept, in any order; the newest one is saved for the next time."""
    kept = [log.write(OTHERS[:size]) for size in (1, 255, 256, 300)]
    assert log.run("verify", *kept[::-1], "--save", tmp_path / "new") == 0
    said = capsys.readouterr().out
    assert f"VERIFIED: the log {ORIGIN} has 300 entries" in said and said.count("goes on from") == 4
    assert (tmp_path / "new").read_text() == kept[-1].read_text()
    assert log.run("verify", "--json") == 0
    assert json.loads(capsys.readouterr().out)["size"] == 300


def forked(log: Log) -> Path:
    kept = log.write(OTHERS[:200])
    log.write([OTHERS[299], *OTHERS[1:280]])
    return kept


def forked_in_size(log: Log) -> Path:
    kept = log.write(OTHERS[:200])
    log.write([*OTHERS[:199], OTHERS[299]])
    return kept


def shrank(log: Log) -> Path:
    kept = log.write(OTHERS[:200])
    log.write(OTHERS[:199])
    return kept


def renamed(log: Log) -> Path:
    kept = log.write(OTHERS[:2])
    other = key_of(KEY, "other.example")
    (log.folder.with_name("log.vkey")).write_text(f"{other}\n{key_of(KEY, ORIGIN)}")
    write(log.folder, OTHERS[:2], origin="other.example")
    return kept


def of_a_stranger(log: Log) -> Path:
    kept = log.write(OTHERS[:2])
    write(log.folder, OTHERS[:2], key=Ed25519PrivateKey.generate())
    return kept


def without_a_tile(log: Log) -> Path:
    kept = log.write(OTHERS)
    (log.folder / "tile/0/001.p/44").unlink()
    return kept


def with_another_tile(log: Log) -> Path:
    kept = log.write(OTHERS)
    (log.folder / "tile/1/000.p/1").write_bytes(bytes(32))
    return kept


def with_another_entry(log: Log) -> Path:
    kept = log.write(OTHERS)
    bundle = log.folder / "tile/entries/000"
    bundle.write_bytes(bundle.read_bytes().replace(b'"root":"000', b'"root":"100', 1))
    return kept


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (forked, "log_forked: the log forked: its first 200 entries are not those of"),
        (forked_in_size, "log_forked: the log forked: it signed another root over the 200 entries of"),
        (shrank, "log_shrank: the log shrank: it had 200 entries in"),
        (renamed, "log_name: "),
        (of_a_stranger, "log_signed: "),
        (without_a_tile, "log_tiles: tile/0/001.p/44 is missing"),
        (with_another_tile, "log_tiles: its tiles do not make the root that it signed"),
        (with_another_entry, "log_entries: its entries do not make the root that it signed"),
    ],
)
def test_a_log_that_is_not_what_it_was_is_named(
    log: Log, make: Callable[[Log], Path], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shrank, forked, changed its name or key, or does not have what it signed."""
    assert log.run("verify", make(log)) == 1
    out = capsys.readouterr().out
    assert out.startswith("REJECTED\n  ") and said in out


def attested(
    world: World, log: Log, before: list[Entry], after: list[Entry], mine: Callable[[Entry], list[Entry]]
) -> Any:
    """The world's attestation with a proof in a log that has `mine` of it between other entries."""
    sealed = world.sign()
    entry = entry_of(world.attestation.read_bytes(), world.attestation).entry
    entries = [*before, *mine(entry), *after]
    note = write(log.folder, entries)
    if entry in entries:
        leaves = b"".join(each.leaf for each in entries)
        tree = Tree(len(entries), lambda level, index, width: leaves[: width * 32])
        place = entries.index(entry)
        sealed[LOG_PROOF] = str(LogProof(place, tuple(tree.inclusion(place)), note))
    world.publish(sealed)
    return entry


def second(entry: Entry) -> Entry:
    return Entry("statement", entry.subject, (("statement", "0" * 64),))


def test_an_attestation_is_found(world: World, log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    """By its proof, or by reading all; the proof's own checkpoint is one that the log has to go on from."""
    entry = attested(world, log, OTHERS[:7], OTHERS[7:9], lambda mine: [mine])
    write(log.folder, [*OTHERS[:7], entry, *OTHERS[7:50]])
    for options in ([], ["--quick"]):
        assert log.run("verify", "--attestation", world.attestation, *options) == 0
        assert f"{world.attestation}: entry 7\n" in capsys.readouterr().out
    assert log.run("show", world.attestation) == 0
    assert capsys.readouterr().out.strip().startswith("7  statement")
    assert log.run("list", "--limit", "3") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_second_statement_is_visible(world: World, log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    """In the list, beside the attestation, and when the log is verified; one that is not there is named."""
    attested(world, log, OTHERS[:2], OTHERS[2:4], lambda mine: [mine, second(mine)])
    assert log.run("verify", "--attestation", world.attestation) == 1
    said = capsys.readouterr().out
    assert "log_second_statement: entries 2, 3 are several statements about one job and attempt" in said
    assert "the log has other statements about the same job and attempt: 3" in said
    assert log.run("verify", "--quick", "--attestation", world.attestation) == 0
    assert log.run("show", world.attestation) == 0
    assert capsys.readouterr().out.count("the same job and attempt as") == 2
    attested(world, log, OTHERS[:2], [], lambda mine: [second(mine)])
    for options in ([], ["--quick"]):
        assert log.run("verify", "--attestation", world.attestation, *options) == 1
        assert "log_included: " in capsys.readouterr().out


def test_statements_about_other_attempts_are_named(world: World, log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    """A job has one result: a signer could have shown that of another attempt to somebody else."""
    another = statement_entry(b"another", None, job=world.predicate().job_id, attempt=3)
    attested(world, log, OTHERS[:2], [another], lambda mine: [mine])
    assert log.run("verify", "--attestation", world.attestation) == 0
    assert "attempt 3 of the same job has a statement as well: 3" in capsys.readouterr().out
    assert log.run("show", world.attestation) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.rpartition("  ")[2] for line in shown] == ["attempt 1", "attempt 3"]


def test_witnesses(log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that the reader names have to have cosigned it."""
    witness = Ed25519PrivateKey.generate()
    (tmp_path / "w").write_text(str(key_of(witness, "w.example", COSIGNATURE)))
    note = write(log.folder, OTHERS[:3])
    assert log.run("verify", "--log-witness", tmp_path / "w") == 1
    assert "log_witnessed: the witness 'w.example' has not cosigned it" in capsys.readouterr().out
    (log.folder / "checkpoint").write_text(str(note.with_lines([cosign(note.text, witness, "w.example", at=1)])))
    assert log.run("verify", "--log-witness", tmp_path / "w") == 0


def test_what_cannot_be_checked(world: World, log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No log there, no key, a file that is no checkpoint or no attestation: named, and never a traceback."""
    assert log.run("verify") == 2
    assert "has no checkpoint" in capsys.readouterr().out
    log.write(OTHERS[:2])
    (tmp_path / "garbage").write_text("garbage")
    assert log.run("verify", tmp_path / "garbage") == 1
    (tmp_path / "braces").write_text("{")
    assert log.run("verify", tmp_path / "braces") == 1
    assert log.run("show", tmp_path / "garbage") == 1
    assert log.run("verify", tmp_path / "none") == 2
    assert audit_log.main(["verify", "--log", log.place]) == 2
    assert "which log do you trust?" in capsys.readouterr().out
    assert audit_log.main(["verify", "--log", "http://127.0.0.1:9/log", *log.options]) == 2
    assert "does not answer" in capsys.readouterr().out


@pytest.fixture
def served(log: Log) -> Iterator[str]:
    log.write(OTHERS)
    handler = partial(SimpleHTTPRequestHandler, directory=log.place)
    handler.keywords["directory"] = log.place
    with listening(handler) as url:
        yield url


def test_static_files_over_http_are_a_log(log: Log, served: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of any web server; a place without one says what is missing."""
    (kept,) = log.notes.values()
    assert audit_log.main(["verify", str(kept), "--log", served, *log.options]) == 0
    assert audit_log.main(["verify", "--log", f"{served}/elsewhere", *log.options]) == 2
    assert "has no checkpoint" in capsys.readouterr().out
