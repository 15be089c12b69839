"""Signed notes and checkpoints, by a known key of the format's own examples and by hostile texts."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.evidence.format.note import (
    COSIGNATURE,
    MAX_NOTE,
    LogHead,
    Note,
    NoteError,
    NoteKey,
    NoteLine,
    checked_name,
    cosign,
    key_of,
    read_keys,
    read_line,
    read_note,
    sign,
    signed_state,
    time_of,
)

#: Of Go's checksum database, whose notes were the first.
SUMDB = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
KEY = Ed25519PrivateKey.generate()
TEXT = LogHead("a.example/log", 7, bytes(range(32))).text


def test_a_key_of_the_world_is_read() -> None:
    """With the hash that others know it by; another hash, name or kind of key is refused."""
    key = NoteKey.parse(SUMDB)
    assert (str(key), key.hash.hex(), key.name) == (SUMDB, "033de0ae", "sum.golang.org")
    assert read_keys(f"# a comment\n\n{SUMDB}\n") == (key,)
    for text in (SUMDB.replace("033", "034"), SUMDB.replace("sum", "sun"), SUMDB.replace("Ac4", "Cc4"), "x", ""):
        with pytest.raises(NoteError):
            NoteKey.parse(text)


def test_a_checkpoint_is_signed_and_read() -> None:
    """By its log, whose key has its name, and by a witness with a time; each line verifies under its own key alone."""
    witness = Ed25519PrivateKey.generate()
    note = Note(TEXT, (sign(TEXT, KEY, "a.example/log"),)).with_lines([cosign(TEXT, witness, "w", at=1_700_000_000)])
    again = read_note(str(note).encode())
    assert again == note
    assert signed_state(again, [key_of(KEY, "a.example/log")]) == LogHead("a.example/log", 7, bytes(range(32)))
    line = again.by(key_of(witness, "w", COSIGNATURE))
    assert line is not None and f"{time_of(line):%Y}" == "2023"
    assert again.by(key_of(witness, "a.example/log")) is None
    assert len(note.with_lines([cosign(TEXT, witness, "w", at=1_800_000_000)]).lines) == 2
    for keys, said in (
        ([], "none of the log keys"),
        ([key_of(witness, "a.example/log")], "none of the log keys"),
        ([key_of(witness, "w", COSIGNATURE)], "none of the log keys"),
    ):
        with pytest.raises(NoteError, match=said):
            signed_state(again, keys)
    elsewhere = Note(TEXT, (sign(TEXT, KEY, "b.example"),))
    with pytest.raises(NoteError, match=r"signed by the key of 'b\.example'"):
        signed_state(elsewhere, [key_of(KEY, "b.example")])
    forged = Note(TEXT.replace("7", "8"), note.lines)
    with pytest.raises(NoteError, match="does not fit"):
        signed_state(forged, [key_of(KEY, "a.example/log")])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\xff",
        "text\n",
        "text\n\n",
        "text\n\n\u2014 name\n",
        "text\n\n\u2014 name AAAA\n",
        "text\n\n\u2014 name AAAAAA=\n",
        "text\n\n\u2014 name AAAAAB==\n",
        "text\n\n- name AAAAAAAA\n",
        "text\n\n\u2014 na+me AAAAAAAA\n",
        "text\n\n\u2014  AAAAAAAA\n",
        "te\0xt\n\n\u2014 name AAAAAAAA\n",
        "text\r\n\n\u2014 name AAAAAAAA\n",
        "text\n\n" + 65 * "\u2014 name AAAAAAAA\n",
        "a" * MAX_NOTE + "\n\n\u2014 name AAAAAAAA\n",
    ],
    ids=range(15),
)
def test_what_is_no_note_is_refused(text: str) -> None:
    """With a reason, and no other error."""
    with pytest.raises(NoteError):
        read_note(text.encode("latin-1") if text == "\xff" else text)


@pytest.mark.parametrize("line", [0, 1, 2])
@pytest.mark.parametrize("value", ["", "01", "-1", "1e3", "\u0661", "9" * 19, "AAAA", "\u2028"])
def test_what_is_no_checkpoint_is_refused(line: int, value: str) -> None:
    """A name, a number without zeros in front, a SHA-256: anything else is none."""
    lines = TEXT.split("\n")
    lines[line] = value
    if line == 0 and value not in ("", "\u2028"):
        assert LogHead.parse("\n".join(lines)).origin == value
        return
    with pytest.raises(NoteError):
        LogHead.parse("\n".join(lines))


def test_odd_lines_and_names() -> None:
    """Times that no calendar has, names with spaces, cosignatures of another length."""
    assert time_of(NoteLine("w", b"1234", b"\xff" * 72)) is None
    assert not key_of(KEY, "w", COSIGNATURE).verifies(b"short", TEXT)
    assert not NoteKey("w", bytes(31)).verifies(bytes(64), TEXT)
    with pytest.raises(NoteError):
        checked_name("a b")
    with pytest.raises(NoteError):
        read_line("\u2014 name")
