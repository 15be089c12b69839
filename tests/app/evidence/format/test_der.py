"""Elements of DER, one after the other."""

import pytest

from app.evidence.format.der import after, elements, inside

SHORT, LONG = b"\x04\x02ab", b"\x30\x81\x80" + bytes(128)


def test_elements_follow_each_other() -> None:
    """With short and long lengths; no bytes are none."""
    assert elements(SHORT + LONG + SHORT) == [SHORT, LONG, SHORT]
    assert elements(b"") == []
    assert (inside(LONG, 0), after(SHORT + LONG, 4)) == ((3, 131), 4 + 131)


@pytest.mark.parametrize("rest", [b"\x04", b"\x04\x05ab", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80"])
def test_a_rest_that_is_none_is_one_piece(rest: bytes) -> None:
    """No byte is lost, and it ends."""
    assert b"".join(elements(SHORT + rest)) == SHORT + rest
