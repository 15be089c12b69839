"""Lines of logs as they are stored and read."""

from typing import Any

from starlette.testclient import TestClient

from app.db import Database
from app.logs import queries


def test_the_newest_are_kept_of_a_long_log(api: TestClient, db: Database, job: str, monkeypatch: Any) -> None:
    """A bound on bytes; the numbers go on, and the answer says from where on lines are kept."""
    monkeypatch.setattr(queries, "MAX_BYTES", 3_000)
    monkeypatch.setattr(queries, "CHUNK_BYTES", 1_000)
    with db.write() as session:
        queries.append(session, job, 2, ["x" * 99] * 200)
    page = api.get(f"fine_tuning/jobs/{job}/logs").json()
    assert page["lines"] == 207
    assert page["data"][0]["line"] == page["kept_from"] > 170
    assert page["data"][-1]["line"] == 207
    assert sum(len(each["text"]) for each in page["data"]) <= 3_000
