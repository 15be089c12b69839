"""Keys in the database, on each that the service runs on."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from app.auth import api_keys
from app.auth.tables import ApiKey
from app.db import Database, now
from app.errors import Conflict, NotFound


def made(db: Database, **fields) -> tuple[ApiKey, str]:
    values = {"project": "default", "role": "writer", "name": "test", "expires_at": None}
    with db.write() as session:
        return api_keys.make(session, **(values | fields))


def found(db: Database, key: str) -> ApiKey | None:
    with db.read() as session:
        return api_keys.find(session, key)


def test_a_key_is_found_by_itself_alone(db: Database):
    """Any character changed, left out or added, and it is nobody's."""
    row, key = made(db)
    hit = found(db, key)
    assert hit is not None and (hit.id, hit.role) == (row.id, "writer")
    for place in (0, 3, 11, 12, len(key) - 1):
        other = "0" if key[place] != "0" else "1"
        assert found(db, key[:place] + other + key[place + 1 :]) is None
    for wrong in (
        "",
        row.id,
        key[:-1],
        key + "0",
        key.upper(),
        f" {key}",
        f"{key}\n",
        "pf_",
        "sk-none",
        "ключ",
        key * 999,
    ):
        assert found(db, wrong) is None


def test_the_secret_half_of_another_key_does_not_fit(db: Database):
    """The readable half finds the row, the digest is of the whole."""
    (one, first), (_, second) = made(db), made(db)
    assert found(db, f"{one.id}_{second.rpartition('_')[2]}") is None and found(db, first) is not None


def test_keys_hold_256_random_bits(db: Database):
    """Sixty-four hexadecimal digits, all of them used: no two keys alike, in either half."""
    keys = [made(db)[1] for _ in range(50)]
    assert all(re.fullmatch(r"pf_[a-z0-9]{8}_[0-9a-f]{64}", key) for key in keys)
    assert len({key[:11] for key in keys}) == len({key[12:] for key in keys}) == 50
    counts = Counter("".join(key[12:] for key in keys))
    assert len(counts) == 16 and min(counts.values()) > 100  # of 200 expected; below 100 once in 10^12


def test_the_key_itself_is_not_stored(db: Database):
    """No column holds the secret half, as text or otherwise."""
    row, key = made(db)
    with db.read() as session:
        stored = session.execute(select(ApiKey.__table__)).one()
    assert key[12:] not in " ".join(map(str, stored)) and row.sha256 != key


def test_expiry_is_exact_and_revocation_final(db: Database):
    """An expired key and a revoked one are as good as none; revoking twice is a conflict, a stranger's is not found."""
    at = datetime.now(UTC)
    _, late = made(db, expires_at=at - timedelta(seconds=1))
    row, good = made(db, expires_at=at + timedelta(hours=1))
    assert found(db, late) is None and found(db, good) is not None
    with db.write() as session:
        assert api_keys.revoke(session, row.id).revoked_at is not None
    assert found(db, good) is None
    with pytest.raises(Conflict, match="already revoked"), db.write() as session:
        api_keys.revoke(session, row.id)
    with pytest.raises(NotFound, match="keys list"), db.write() as session:
        api_keys.revoke(session, "pf_nobody00")


def test_whether_there_is_any_key_that_can_be_used(db: Database):
    """Expired and revoked ones do not count: with those alone nobody could come in."""

    def any_usable() -> bool:
        with db.read() as session:
            return api_keys.any_usable(session)

    assert not any_usable()
    made(db, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    row, _ = made(db)
    assert any_usable()
    with db.write() as session:
        api_keys.revoke(session, row.id)
    assert not any_usable()


def test_lists_by_project(db: Database):
    """Newest first; of one project or of all."""
    ids = [made(db, project=project)[0].id for project in ("a", "b", "a")]
    with db.read() as session:
        assert [row.id for row in api_keys.listed(session, project="a")] == [ids[2], ids[0]]
        assert [row.id for row in api_keys.listed(session, project=None)] == ids[::-1]
        assert now(session) >= api_keys.listed(session, project="b")[0].created_at
