"""`python -m tools.log_interop`: reads a log of ours with aics-tlog (PyPI), a tool that nobody here wrote."""

import hashlib
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.db import Database
from app.evidence.format.log_proof import base_entry, read_proof
from app.evidence.format.note import COSIGNATURE, cosign, key_of, read_note
from app.evidence.transparency.journal import Journal, load_key
from app.evidence.transparency.proofs import proof_of
from app.storage.blobs import Storage
from migrations.tables import tables
from tools.peers import packages

OLD, NEW, ENTRY = 255, 700, 300


def main() -> int:
    sys.path.append(str(packages("aics")))
    peer = import_module("aics_tlog")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        db = Database(f"sqlite:///{place}/log.db")
        tables().create_all(db.engine)
        log = Journal(db, Storage(f"file://{place}/blobs"), load_key(place / "log.key"))
        entries = [base_entry(hashlib.sha256(b"%d" % at).hexdigest(), name=str(at)) for at in range(NEW)]
        files = place / "blobs" / "log"
        log.enter(*entries[:OLD])
        older = peer.parse_checkpoint(peer.parse_note((files / "checkpoint").read_text()).text)
        log.enter(*entries[OLD:])

        key, raw = peer.parse_vkey((place / "log.vkey").read_text().strip()), (files / "checkpoint").read_text()
        note = peer.parse_note(raw)
        said = peer.verify_checkpoint(note, key, expected_origin=log.key.origin)
        newer, reader = peer.parse_checkpoint(note.text), peer.FileSystemTileReader(files)
        roots = [getattr(head, "root_hash", None) or head.root for head in (older, newer)]
        proof = read_proof(proof_of(db, log.storage, entries[ENTRY].leaf.hex()) or "")
        steps = peer.consistency_proof_from_tiles(reader, OLD, NEW)
        witness = Ed25519PrivateKey.generate()
        cosigned = read_note(raw).with_lines([cosign(read_note(raw).text, witness, "w.example", at=1_700_000_000)])
        seen = peer.cosignature_vkey("w.example", witness.public_key())
        checks = {
            "its checkpoint": said.ok and said.size == NEW,
            "every tile and entry": peer.audit_tiles(reader, NEW, roots[1]).size == NEW,
            "our proof": peer.verify_leaf_inclusion(entries[ENTRY].raw, proof.index, NEW, list(proof.path), roots[1]),
            "consistency": peer.verify_consistency(OLD, NEW, *roots, steps),
            "a witness' key": peer.format_vkey(seen) == str(key_of(witness, "w.example", COSIGNATURE)),
            "a cosignature": peer.verify_checkpoint(peer.parse_note(str(cosigned)), key, [seen], 1).ok,
        }
        db.close()
    for what, holds in checks.items():
        print(f"{'ok' if holds else 'FAIL':4}  aics-tlog {peer.__version__}: {what}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
