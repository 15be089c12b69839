"""Correct keys are remembered for a few seconds, and their use is written once a minute."""

import functools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, update
from starlette.testclient import TestClient

from app.auth import api_keys
from app.auth.key_cache import REMEMBER_SECONDS, USE_SECONDS, KeyCache
from app.auth.tables import ApiKey
from app.db import Database
from tests.app.auth.test_api_keys import made
from tests.app.guarded import Guarded
from tests.patience import PATIENCE


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_use_is_written_once_a_minute(db: Database):
    """Of a hundred uses within a minute one is written; the next minute's first is again."""
    row, _ = made(db)
    clock = Clock()
    writes: list[str] = []

    @event.listens_for(db.engine, "before_cursor_execute")
    def _note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        writes.extend([statement] if statement.startswith("UPDATE api_keys") else [])

    for _ in range(2):
        cache = KeyCache(db, clock=clock)
        for _ in range(100):
            cache.used(row.id)
        clock.now += USE_SECONDS
        cache.used(row.id)
        cache.close(seconds=PATIENCE)
    assert len(writes) == 4
    event.remove(db.engine, "before_cursor_execute", _note)


def test_another_process_that_noted_it_is_not_overruled(db: Database):
    """What is younger than a minute stays, whichever process wrote it."""
    row, _ = made(db)
    earlier = datetime.now(UTC) - timedelta(seconds=20)
    with db.write() as session:
        session.execute(update(ApiKey).values(last_used_at=earlier))
    cache = KeyCache(db)
    cache.used(row.id)
    cache.close(seconds=PATIENCE)
    with db.read() as session:
        assert session.get_one(ApiKey, row.id).last_used_at == earlier


def test_a_key_is_remembered_for_five_seconds_and_not_beyond(db: Database):
    """That is how long a revoked key may still work elsewhere. A wrong one is never remembered."""
    row, key = made(db)
    clock = Clock()
    cache = KeyCache(db, clock=clock)
    assert cache.remembered(key) is None
    assert cache.look_up(key) is not None and cache.look_up(key + "0") is None
    with db.write() as session:
        api_keys.revoke(session, row.id)
    clock.now += REMEMBER_SECONDS
    assert cache.remembered(key) is not None and cache.remembered(key + "0") is None
    clock.now += 0.1
    assert cache.remembered(key) is None and cache.look_up(key) is None


def test_expiry_is_exact_for_remembered_keys_too(db: Database):
    """A key that expires while it is remembered stops working at that moment."""
    _, key = made(db, expires_at=datetime.now(UTC) + timedelta(hours=1))
    cache = KeyCache(db)
    remembered = cache.look_up(key)
    assert isinstance(remembered, ApiKey)
    remembered.expires_at = datetime.now(UTC)
    assert cache.remembered(key) is None


def test_polling_asks_for_the_key_once(guarded: Guarded, client: TestClient):
    """Twenty requests in a row, one look at the table of keys."""
    guarded.application.state.key_cache = KeyCache(guarded.db, clock=Clock())
    headers = guarded.headers("mine", "reader")
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.extend([statement] if "FROM api_keys" in statement else [])

    reader = guarded.db._engines[-1]
    event.listen(reader, "before_cursor_execute", note)
    for _ in range(20):
        assert client.get("files", headers=headers).status_code == 200
    event.remove(reader, "before_cursor_execute", note)
    assert len(asked) == 1


def test_the_last_use_is_noted_beside_the_request(guarded: Guarded, monkeypatch: pytest.MonkeyPatch):
    """To the minute, by a thread of its own: the row has it once the application has stopped."""
    cache: KeyCache = guarded.application.state.key_cache
    monkeypatch.setattr(cache, "close", functools.partial(cache.close, seconds=PATIENCE))
    with TestClient(guarded.application, base_url="http://testserver/v1/") as client:
        for _ in range(5):
            assert client.get("files", headers=guarded.headers("mine", "reader")).status_code == 200
    db = Database(guarded.settings.database)
    with db.read() as session:
        used = {row.name: row.last_used_at for row in session.scalars(select(ApiKey))}
    db.close()
    assert used.pop("reader of mine") is not None and set(used.values()) == {None}
