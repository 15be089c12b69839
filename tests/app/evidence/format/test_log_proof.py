"""Entries of a log, which show digests alone, and the text of a proof."""

import hashlib
import json

import pytest

from app.evidence.format.log_proof import LogProof, LogProofError, base_entry, read_entry, read_proof, statement_entry
from app.evidence.format.note import Note, NoteLine

NOTE = Note("a\n1\nAAAA\n", (NoteLine("a", b"1234", b"signature"),))


def test_an_entry_shows_digests_alone() -> None:
    """Of what was signed; job and attempt, and the name of a base, are in it as digests too."""
    entry = statement_entry(b"statement", b"recipe", job="ftjob-1", attempt=2)
    fields = json.loads(entry.raw)
    assert fields["statement"] == hashlib.sha256(b"statement").hexdigest()
    assert fields["recipe"] == hashlib.sha256(b"recipe").hexdigest()
    assert set(fields) == {"kind", "subject", "statement", "recipe"}
    assert b"ftjob" not in entry.raw and b"minilm" not in base_entry("00" * 32, name="minilm").raw
    assert read_entry(entry.raw) == entry
    assert "recipe" not in json.loads(statement_entry(b"", None, job="a", attempt=1).raw)


def test_entries_of_one_attempt_have_one_subject() -> None:
    """So that a second statement about it is seen, whatever it says; neighbours are other subjects."""
    first = statement_entry(b"1", None, job="ftjob-1", attempt=2)
    assert first.subject == statement_entry(b"2", b"r", job="ftjob-1", attempt=2).subject
    others = [("ftjob-1", 1), ("ftjob-12", 2), ("ftjob-", 12)]
    assert len({first.subject, *(statement_entry(b"1", None, job=job, attempt=at).subject for job, at in others)}) == 4
    assert (
        base_entry("00", name="a").subject == base_entry("11", name="a").subject != base_entry("00", name="b").subject
    )


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"7", b'{"kind":1,"subject":""}', b"[" * 9999, b'{"kind":"x"}'])
def test_what_is_no_entry_of_ours_is_none(raw: bytes) -> None:
    """Also an entry of ours in another spelling."""
    assert read_entry(raw) is None
    assert read_entry(base_entry("00", name="a").raw + b" ") is None


def test_a_proof_is_text() -> None:
    """As c2sp.org/tlog-proof has it, in both directions; extra data is passed over."""
    proof = LogProof(3, (bytes(32), bytes(range(32))), NOTE)
    text = str(proof)
    assert text.startswith("c2sp.org/tlog-proof@v1\nindex 3\nAAAA")
    assert read_proof(text) == proof
    assert read_proof(text.replace("index", "extra QUJD\nindex")) == proof
    assert read_proof(str(LogProof(0, (), NOTE))) == LogProof(0, (), NOTE)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("@v1", "@v2", "its first line"),
        ("index 3", "index 03", "index is missing"),
        ("index 3\n", "", "index is missing"),
        ("index 3", "index \u0663", "index is missing"),
        ("AAA=\n", "AAA\n", "no SHA-256"),
        ("AAA=\n", "AA==\n", "no SHA-256"),
        ("\n\na\n", "\na\n", "no SHA-256"),
        ("\u2014", "-", "its checkpoint"),
        ("index 3\n", "index 3\n" + 64 * ("A" * 43 + "=\n"), "more than 64"),
    ],
)
def test_what_is_no_proof_is_refused(old: str, new: str, said: str) -> None:
    """With its reason."""
    text = str(LogProof(3, (bytes(32),), NOTE))
    assert old in text
    with pytest.raises(LogProofError, match=said):
        read_proof(text.replace(old, new, 1))
