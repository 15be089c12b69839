"""One poll for all watchers of all jobs."""

import time

import httpx2
from fastapi import FastAPI
from sqlalchemy import event

from app.db import Database
from tests.app.conftest import AFFINE, rows, upload_to


def test_many_watchers_cost_the_database_what_one_does(socket_url: str, embedded: FastAPI) -> None:
    """Queries during one second of 1 watcher and of 60 watchers of the same job differ by little."""
    db: Database = embedded.state.backends.database
    with httpx2.Client(base_url=f"{socket_url}/v1/", limits=httpx2.Limits(max_connections=100)) as client:
        file = upload_to(client)(rows())
        job = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file}).json()["id"]
        queries = 0

        def count(*_: object) -> None:
            nonlocal queries
            queries += 1

        for engine in db._engines:
            event.listen(engine, "before_cursor_execute", count)

        def during_a_second(watchers: int) -> int:
            paths = [f"fine_tuning/jobs/{job}/{what}?stream=true" for what in ("events", "metrics", "logs")]
            streams = [client.stream("GET", paths[number % 3]) for number in range(watchers)]
            blocks = [stream.__enter__().iter_bytes() for stream in streams]
            for each in blocks:
                next(each)
            before = queries
            time.sleep(1)
            after = queries
            for stream in streams:
                stream.__exit__(None, None, None)
            return after - before

        one = during_a_second(1)
        assert one > 0
        assert during_a_second(60) <= 2 * one + 4
