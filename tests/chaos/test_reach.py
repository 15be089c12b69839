"""Faults of what lies elsewhere: stores and hubs that jobs are fetched from, and servers that results are sent to."""

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.chaos.cluster import Cluster, eventually
from tests.chaos.runs import TABLE, Gates, order
from tests.hub import Hub
from tests.hub import serving as hub_serving

#: An address of this machine that workers of the cluster may not reach: PERMAFROST_FETCH_ALLOW has 127.0.0.1 alone.
INNER = "127.0.0.2"


@dataclass
class Elsewhere:
    """An object of a store that speaks S3, and ways to withhold it."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)  # after how many bytes each of the next downloads ends
    vanishes: bool = False  # the bucket is gone once a download has been cut
    redirects: str = ""  # where every request is sent

    def answer(self, method: str, path: str, wanted: str) -> tuple[int, bytes, dict[str, str]]:
        self.asked.append(f"{method} {path}")
        if self.redirects:
            return 307, b"", {"location": f"{self.redirects}{path}"}
        if self.vanishes and not self.cut:
            return 404, b"<Error><Code>NoSuchBucket</Code><Message>gone</Message></Error>", {}
        since = int(wanted.removeprefix("bytes=").partition("-")[0])
        return 206 if since else 200, TABLE[since:], {"etag": '"one"'}

    def shortened(self, body: bytes) -> bytes:
        return body[: self.cut.pop(0)] if self.cut and body else body


@contextmanager
def listening(handler: type[http.server.BaseHTTPRequestHandler], host: str = "127.0.0.1") -> Iterator[str]:
    server = http.server.ThreadingHTTPServer((host, 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answering(there: Elsewhere) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, headers = there.answer(self.command, self.path, self.headers.get("range") or "bytes=0-")
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(there.shortened(body) if self.command == "GET" else body)
            self.close_connection = True

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"] or 0))
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None: ...

    return Handler


@pytest.fixture
def store(cluster: Cluster) -> Iterator[Elsewhere]:
    """A store for which the project has keys."""
    there = Elsewhere()
    with listening(answering(there)) as url:
        there.url = url
        keys = {"access_key_id": "mine", "secret_access_key": "canary", "region": "us-east-1", "endpoint_url": url}
        cluster.post("secrets", {"name": "store", "kind": "s3", "scope": "data", "value": keys})
        yield there
    cluster.client.delete("secrets/store")


@contextmanager
def inner_server() -> Iterator[Elsewhere]:
    """What must not be asked."""
    there = Elsewhere()
    with listening(answering(there), INNER) as url:
        there.url = url
        yield there


def by_reference(cluster: Cluster, gates: Gates, **fields: Any) -> dict[str, Any]:
    return order(cluster, gates, table="s3://data/table.csv", **fields)


@pytest.mark.fault(39)
def test_a_store_that_cuts_off(cluster: Cluster, gates: Gates, store: Elsewhere) -> None:
    """Twice: the same attempt goes on where it was, and trains to the same bits."""
    store.cut = [1_000, 500]
    job = cluster.ended(cluster.submit(by_reference(cluster, gates)))
    assert (job["status"], job["attempts"]) == ("succeeded", 1), cluster.story(job["id"])
    assert len([each for each in store.asked if each.startswith("GET")]) == 3


@pytest.mark.fault(39)
def test_a_bucket_that_vanishes_halfway(cluster: Cluster, gates: Gates, store: Elsewhere) -> None:
    """Refused by the reference, once; what had come is in no file."""
    store.cut, store.vanishes = [1_000], True
    job = cluster.ended(cluster.submit(by_reference(cluster, gates)))
    assert (job["status"], job["attempts"]) == ("failed", 1), cluster.story(job["id"])
    assert job["error"]["code"] == "source_not_found" and job["error"]["param"] == "training_file"
    assert "canary" not in cluster.story(job["id"])


@pytest.mark.fault(39)
def test_a_store_that_redirects_to_an_inner_address(cluster: Cluster, gates: Gates, store: Elsewhere) -> None:
    """The connection is refused before it is made."""
    with inner_server() as inner:
        store.redirects = inner.url
        job = cluster.ended(cluster.submit(by_reference(cluster, gates)))
        assert (job["status"], inner.asked) == ("failed", []), cluster.story(job["id"])
    assert store.asked and "canary" not in cluster.story(job["id"])


@pytest.mark.fault(40)
def test_a_hub_that_sends_other_bytes(cluster: Cluster, gates: Gates) -> None:
    """Than its list of the commit says: no second try, and no model of it for later jobs."""
    files = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"\x02\0\0\0\0\0\0\0{}"}
    with hub_serving(Hub("acme/tiny", files, wrong_bytes={"model.safetensors"})) as hub:
        cluster.replace_worker(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0")
        model = {"type": "transformers", "path": "acme/tiny", "task": "text-classification"}
        policy = {"freeze": ["bert.**"]}
        file = cluster.upload(b'{"text": "a", "label": "b"}\n{"text": "c", "label": "d"}\n' * 2, "texts.jsonl")
        job = cluster.ended(cluster.submit({"model": model, "training_file": file, "freeze_policy": policy}))
    assert (job["status"], job["attempts"]) == ("failed", 1), cluster.story(job["id"])
    assert job["error"]["code"] == "hub_wrong_bytes"
    assert "acme/tiny" not in str(cluster.get("models"))


@pytest.mark.fault(42)
def test_a_slow_hub_that_cuts_off(cluster: Cluster, gates: Gates) -> None:
    """Twice, in the middle of the data: the same attempt gets all of it and trains to the same bits."""
    slow = Hub("acme/data", {"train.csv": TABLE}, kind="datasets", slow=0.2, large=1_000, cut=[400, 300])
    with hub_serving(slow) as hub:
        cluster.replace_worker(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0")
        job = cluster.ended(cluster.submit(order(cluster, gates, table="hf://acme/data/train.csv")))
    assert (job["status"], job["attempts"], slow.cut) == ("succeeded", 1, []), cluster.story(job["id"])


@pytest.mark.fault(41)
def test_destinations_in_trouble(cluster: Cluster, gates: Gates, store: Elsewhere) -> None:
    """The job ends as ever. A redirect is not followed, a bucket that is gone named; who is away gets it later."""
    store.vanishes = True
    with inner_server() as inner, listening(answering(Elsewhere(redirects=inner.url))) as url, nobody() as closed:
        places = [url.replace("http://", "trackio+http://"), url.replace("http://", "wandb+http://")]
        wanted = [f"{places[0]}/curves", f"{places[1]}/acme/curves", "s3://data/results", closed]
        job = cluster.ended(cluster.submit(order(cluster, gates, destinations=wanted)))
        assert (job["status"], job["attempts"]) == ("succeeded", 1), cluster.story(job["id"])
        exports = eventually(lambda: _tried(cluster, job["id"]), says=cluster.log)
        assert inner.asked == []
    found = [exports[each]["status"] for each in wanted]
    assert found == ["failed", "failed", "failed", "pending"], [each["error"] for each in exports.values()]
    assert "does not answer" in exports[closed]["error"]


@pytest.mark.fault(41)
def test_a_tracking_server_that_hangs(cluster: Cluster, gates: Gates) -> None:
    """It takes the connection and never answers: the job after it, and its own, end meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"mlflow+http://127.0.0.1:{silent.getsockname()[1]}/team"
        first = cluster.ended(cluster.submit(order(cluster, gates, destinations=[place])))
        second = cluster.ended(cluster.submit(order(cluster, gates)))
        assert {first["status"], second["status"]} == {"succeeded"}
        (export,) = cluster.get(f"fine_tuning/jobs/{first['id']}/exports")["data"]
        assert export["status"] == "pending"


@contextmanager
def nobody() -> Iterator[str]:
    """A destination at a port that is taken, and on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"mlflow+http://127.0.0.1:{taken.getsockname()[1]}/team"


def _tried(cluster: Cluster, job: str) -> dict[str, Any] | None:
    """The exports by their destination, once each has been tried."""
    exports = {each["destination"]: each for each in cluster.get(f"fine_tuning/jobs/{job}/exports")["data"]}
    return exports if all(each["attempts"] for each in exports.values()) else None
