"""A log that is followed live."""

import json

import httpx2
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from tests.app.conftest import serve
from tests.app.logs.test_routes import end


def test_a_log_is_followed_live(application: FastAPI, db: Database, job: str) -> None:
    """What is there, then what comes, to the end of the job; a dropped stream goes on behind a line."""
    with serve(application) as url, httpx2.stream("GET", f"{url}/v1/fine_tuning/jobs/{job}/logs?stream=true") as raw:
        seen = []
        for line in raw.iter_lines():
            if line.startswith("data: {"):
                seen.append(json.loads(line.removeprefix("data: "))["line"])
                if seen[-1] == 7:
                    end(db, job)
        assert seen == [1, 2, 3, 4, 5, 6, 7, 8]
        assert line == "" or line == "data: [DONE]"
    with TestClient(application, base_url="http://testserver/v1/") as api:
        rest = api.get(f"fine_tuning/jobs/{job}/logs?stream=true", headers={"last-event-id": "6"}).text
        last = api.get(f"fine_tuning/jobs/{job}/logs?stream=true&tail=3", headers={"last-event-id": "7"}).text
        tail = api.get(f"fine_tuning/jobs/{job}/logs?stream=true&tail=3").text
    assert numbers(rest) == ["id: 7", "id: 8"]
    assert rest.endswith("data: [DONE]\n\n")
    assert (numbers(tail), numbers(last)) == (["id: 6", "id: 7", "id: 8"], ["id: 8"])


def numbers(stream: str) -> list[str]:
    return [each for each in stream.splitlines() if each.startswith("id:")]
