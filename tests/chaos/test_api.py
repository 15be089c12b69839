"""The API killed at its worst moments, streams dropped, receivers gone: no job is lost, doubled or disturbed."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.chaos.cluster import Cluster, end, eventually
from tests.chaos.runs import Gates, in_a_step, order
from tests.chaos.servers import Wire


@pytest.fixture
def wire(cluster: Cluster) -> Iterator[Wire]:
    """Between the API and PostgreSQL; the worker has its own way there."""
    wire = Wire(cluster.postgres.url)
    cluster.api.stop()
    cluster.api = cluster.start_api(PERMAFROST_DATABASE_URL=wire.url)
    yield wire
    end(cluster.api)
    wire.close()


@pytest.mark.fault(3)
@pytest.mark.parametrize("moment", ["before the commit", "after the commit"])
def test_killed_while_a_job_is_made(cluster: Cluster, gates: Gates, wire: Wire, moment: str) -> None:
    """Before the commit there is no job; after it there is one, which starts by itself and is found by a retry."""
    body, key = order(cluster, gates), {"Idempotency-Key": f"killed {moment}"}
    ambush = wire.lay(b"Job created", when=moment.partition(" ")[0], then="hold")
    lost = threading.Thread(target=_ask_in_vain, args=(cluster, body, key))
    lost.start()
    assert ambush.sprung.wait(60)
    end(cluster.api)
    lost.join()
    cluster.api = cluster.start_api()
    jobs = [each["id"] for each in cluster.get("fine_tuning/jobs?limit=100")["data"]]
    if moment == "before the commit":
        assert cluster.submit(body) not in jobs
    else:
        again = cluster.post("fine_tuning/jobs", body, **key)["id"]  # type: ignore[arg-type]
        assert jobs[0] == again
        cluster.jobs.append(again)
    assert cluster.ended(cluster.jobs[-1])["status"] == "succeeded"


def _ask_in_vain(cluster: Cluster, body: dict[str, Any], key: dict[str, str]) -> None:
    with httpx2.Client(base_url=cluster.client.base_url, timeout=120) as client, pytest.raises(httpx2.TransportError):
        client.post("fine_tuning/jobs", json=body, headers=key)


@pytest.mark.fault(3)
def test_killed_before_the_answer(cluster: Cluster, gates: Gates) -> None:
    """The client saw nothing of it, asks again with the same key, and gets the same job."""
    body = order(cluster, gates)
    first = cluster.post("fine_tuning/jobs", body, **{"Idempotency-Key": "before the answer"})["id"]  # type: ignore[arg-type]
    end(cluster.api)
    cluster.api = cluster.start_api()
    assert cluster.post("fine_tuning/jobs", body, **{"Idempotency-Key": "before the answer"})["id"] == first  # type: ignore[arg-type]
    cluster.jobs.append(first)
    assert cluster.ended(first)["status"] == "succeeded"


@pytest.mark.fault(32)
def test_stream_is_dropped(cluster: Cluster, gates: Gates) -> None:
    """A reader who comes back with the last number that it saw misses nothing and gets nothing twice."""
    caught = in_a_step(cluster, gates)
    assert caught is not None
    seen: list[str] = []
    _read(cluster, caught.job_id, seen, upto=2)  # hangs up in the middle
    reader = threading.Thread(target=_read, args=(cluster, caught.job_id, seen))
    reader.start()
    eventually(lambda: len(seen) >= 4)
    end(cluster.api)
    reader.join()
    cluster.api = cluster.start_api()
    caught.go_on()
    _read(cluster, caught.job_id, seen)
    assert seen == [event.id for event in cluster.events(caught.job_id)]


def _read(cluster: Cluster, job_id: str, seen: list[str], *, upto: int | None = None) -> None:
    """Adds the ids of a job's events to `seen`, from where it ends, until the stream does."""
    headers = {"Last-Event-ID": seen[-1]} if seen else {}
    path = f"fine_tuning/jobs/{job_id}/events?stream=true"
    try:
        with (
            httpx2.Client(base_url=cluster.client.base_url, timeout=120) as client,
            client.stream("GET", path, headers=headers) as stream,
        ):
            for line in stream.iter_lines():
                if line.startswith("data: {"):
                    seen.append(json.loads(line.removeprefix("data: "))["id"])
                if line == "data: [DONE]" or len(seen) == upto:
                    return
    except httpx2.TransportError:
        return


@pytest.mark.fault(31)
def test_webhook_that_leads_astray(cluster: Cluster, gates: Gates) -> None:
    """A redirect to a metadata address is not followed, a receiver that is away not waited for; jobs go on."""
    with _Receiver() as receiver:
        made = [_endpoint(cluster, receiver.url), _endpoint(cluster, "http://127.0.0.1:9/nobody")]
        refused = _endpoint(cluster, "http://169.254.169.254/latest/meta-data/", status=400)
        assert "169.254.169.254" in json.dumps(refused)
        job_id = cluster.submit(order(cluster, gates))
        assert cluster.ended(job_id)["attempts"] == 1
        for endpoint in made:
            eventually(lambda endpoint=endpoint: _attempts(cluster, endpoint), says=cluster.log)  # type: ignore[misc]
        assert receiver.asked == ["/hook"]
        assert "302" in json.dumps(_attempts(cluster, made[0]))
        for endpoint in made:
            cluster.client.delete(f"webhook_endpoints/{endpoint}")


def _endpoint(cluster: Cluster, url: str, *, status: int = 200) -> Any:
    body = {"name": "chaos", "url": url, "event_types": ["fine_tuning.job.succeeded"]}
    answer = cluster.post("webhook_endpoints", body, status=status)
    return answer["id"] if status == 200 else answer


def _attempts(cluster: Cluster, endpoint: str) -> list[Any]:
    deliveries = cluster.get(f"webhook_endpoints/{endpoint}/deliveries")["data"]
    return [attempt for each in deliveries for attempt in each["attempts"]]


class _Receiver:
    """Answers every POST with a redirect to where clouds keep their credentials."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked.append(self.path)
                self.send_response(302)
                self.send_header("Location", "http://169.254.169.254/latest/meta-data/")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> "_Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
