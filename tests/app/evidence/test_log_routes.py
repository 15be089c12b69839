"""The log over HTTP: a whole log for clients of its specification, and a proof in each attestation."""

import json

from fastapi import FastAPI
from starlette.testclient import TestClient

from app.evidence.format.log_proof import base_entry, read_proof, statement_entry
from app.evidence.format.note import NoteKey, read_note, signed_state
from app.evidence.format.tiles import Tree, entries_of
from app.evidence.tables import Evidence
from app.evidence.transparency.journal import Journal, load_key
from app.http.dependencies import Backends
from tests.app.conftest import Upload
from tests.app.evidence.test_routes import job
from tests.app.jobs.jobs import claim, finish


def journal(application: FastAPI) -> Journal:
    backends: Backends = application.state.backends
    return Journal(backends.database, backends.storage, load_key(backends.settings.log_key_path))


def test_the_log_is_served_as_its_specification_says(client: TestClient, embedded: FastAPI) -> None:
    """From the checkpoint alone a client finds every tile and entry; what is not there is a 404 that says so."""
    assert client.get("log").json()["size"] == 0
    assert client.get("log/checkpoint").json()["error"]["code"] == "empty_log"
    entries = [base_entry(f"{at:064x}", name=str(at)) for at in range(300)]
    journal(embedded).enter(*entries)

    state, answer = client.get("log").json(), client.get("log/checkpoint")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    signed = signed_state(read_note(answer.content), [NoteKey.parse(state["key"])])
    assert (signed.origin, signed.size, signed.root.hex()) == (state["origin"], state["size"], state["root"])
    assert client.get("signing_keys").json()["log_keys"] == [state["key"]]

    def read(level: int, index: int, width: int) -> bytes:
        part = "" if width == 256 else f".p/{width}"
        tile = client.get(f"log/tile/{level}/{index:03}{part}")
        assert (tile.status_code, tile.headers["content-type"]) == (200, "application/octet-stream")
        assert "immutable" in tile.headers["cache-control"]
        return tile.content

    assert Tree(300, read).root() == signed.root
    assert read(0, 0, 9) == read(0, 0, 256)[: 9 * 32]
    found = entries_of(client.get("log/tile/entries/000").content)
    assert [*found, *entries_of(client.get("log/tile/entries/001.p/44").content)] == [each.raw for each in entries]
    for path in ("0/002", "0/0", "0/001.p/45", "7/000", "x", "entries/../000", "%2e%2e/checkpoint"):
        answer = client.get(f"log/tile/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_tile"), path


def test_an_attestation_has_its_proof(client: TestClient, embedded: FastAPI, upload: Upload) -> None:
    """Once its entry is under a checkpoint, and by the newest one; after the job is deleted the log still has it."""
    db = embedded.state.backends.database
    job_id = job(client, upload)
    entry = statement_entry(b"statement", b"recipe", job=job_id, attempt=1)
    finish(db, claim(db))
    with db.write() as session:
        session.get_one(Evidence, job_id).log_leaf = entry.leaf.hex()
    address = f"fine_tuning/jobs/{job_id}/attestation"
    assert "tlog_proof" not in client.get(address).json()

    log = journal(embedded)
    log.enter(entry)
    log.enter(base_entry("00" * 32, name="later"))
    proof = read_proof(client.get(address).json()["tlog_proof"])
    signed = signed_state(proof.checkpoint, [log.key.public])
    assert (proof.index, signed.size, proof.root(entry.leaf, size=2)) == (0, 2, signed.root)

    assert client.delete(f"fine_tuning/jobs/{job_id}").status_code == 200
    assert entries_of(client.get("log/tile/entries/000.p/2").content)[0] == entry.raw
    assert job_id not in json.dumps(client.get("log").json())
