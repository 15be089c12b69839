"""How fast a key may ask: the bucket by a clock of our own; headers and SDK over the real application."""

import re
from collections.abc import Iterator

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from starlette.testclient import TestClient

from app.auth.rates import WINDOW_SECONDS, RateLimited, Rates
from app.jobs.queue import lifecycle
from app.settings import Settings
from tests.app.conftest import serve
from tests.app.guarded import Guarded, guard
from tests.app.jobs.jobs import new_job


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def allowed(rates: Rates, key: str, tries: int) -> int:
    count = 0
    for _ in range(tries):
        try:
            rates.take(key)
        except RateLimited:
            continue
        count += 1
    return count


def test_a_bucket_holds_a_minute_and_refills_evenly():
    """Sixty a minute: sixty at once, then one a second; keys have buckets of their own."""
    clock = Clock()
    rates = Rates(60, clock=clock)
    assert allowed(rates, "a", 100) == 60 and allowed(rates, "b", 1) == 1
    clock.now += 0.9
    assert allowed(rates, "a", 5) == 0
    clock.now += 0.2
    assert allowed(rates, "a", 5) == 1
    clock.now += 3600
    assert allowed(rates, "a", 100) == 60


@given(st.integers(1, 100), st.lists(st.floats(0, 20), max_size=60))
def test_no_minute_sees_more_than_twice_the_quota(quota: int, pauses: list[float]):
    """Whatever the rhythm: a full bucket and what flows in during the minute, and no more."""
    clock = Clock()
    rates = Rates(quota, clock=clock)
    taken = [0.0] * allowed(rates, "a", quota)
    for pause in pauses:
        clock.now += pause
        taken += [clock.now] * allowed(rates, "a", 3)
    for start in taken:
        assert sum(start <= at < start + WINDOW_SECONDS for at in taken) <= 2 * quota


@given(st.integers(1, 100_000))
def test_the_wait_that_is_told_is_enough_and_short(quota: int):
    """After Retry-After the next request passes; it is never beyond the 120 s after which the SDK gives up."""
    clock = Clock()
    rates = Rates(quota, clock=clock)
    rates._filled("a").tokens = 0.0
    with pytest.raises(RateLimited) as refused:
        rates.take("a")
    wait = int(refused.value.headers["retry-after"])
    assert 1 <= wait <= 120
    clock.now += wait
    rates.take("a")


def test_headers_tell_what_is_left_and_when_it_is_full():
    """The IETF's structured fields: quota and window, remaining and seconds."""
    clock = Clock()
    rates = Rates(60, clock=clock)
    allowed(rates, "a", 15)
    assert rates.headers("a") == {"ratelimit-policy": '"default";q=60;w=60', "ratelimit": '"default";r=45;t=15'}
    clock.now += 5
    assert rates.headers("a")["ratelimit"] == '"default";r=50;t=10'


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch):
    """Buckets of keys that have been quiet for a minute are full, and are forgotten."""
    monkeypatch.setattr("app.auth.rates._MOST", 100)
    clock = Clock()
    rates = Rates(60, clock=clock)
    for number in range(1000):
        clock.now += 1
        rates.take(str(number))
    assert len(rates._buckets) <= 100


# ---- at the door


@pytest.fixture
def guarded(tmp_path) -> Guarded:
    return guard(Settings(data_dir=tmp_path, rate_limit=5))


@pytest.fixture
def client(guarded: Guarded) -> Iterator[TestClient]:
    with TestClient(guarded.application, base_url="http://testserver/v1/") as made:
        yield made


def remaining(answer) -> int:
    match = re.fullmatch(r'"default";r=(\d+);t=\d+', answer.headers["ratelimit"])
    assert match and answer.headers["ratelimit-policy"] == '"default";q=5;w=60'
    return int(match[1])


def test_every_answer_counts_and_the_sixth_is_refused(guarded: Guarded, client: TestClient):
    """Right or wrong, an answer to a key is counted; then 429 in the envelope, and other keys go on."""
    headers = guarded.headers("mine", "reader")
    paths = ["files", "files/file-none", "models", "webhook_endpoints", "nowhere/at/all", "files"]
    answers = [client.get(path, headers=headers) for path in paths]
    assert [answer.status_code for answer in answers] == [200, 404, 200, 403, 404, 200]
    assert [remaining(answers[number]) for number in (0, 1, 2, 3, 5)] == [4, 3, 2, 1, 0]
    assert "ratelimit" not in answers[4].headers, "no route, no key, no count"
    refused = client.get("files", headers=headers)
    assert refused.status_code == 429 and remaining(refused) == 0 and 1 <= int(refused.headers["retry-after"]) <= 120
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert client.get("files", headers=guarded.headers("mine", "writer")).status_code == 200
    assert "ratelimit" not in client.get("files").headers


def test_a_304_is_not_counted(guarded: Guarded, client: TestClient):
    """Who polls with If-None-Match may poll as often as it likes."""
    job, _ = lifecycle.submit(guarded.db, new_job(project="mine"))
    headers = guarded.headers("mine", "reader")
    first = client.get(f"fine_tuning/jobs/{job.id}", headers=headers)
    assert remaining(first) == 4
    headers["if-none-match"] = first.headers["etag"]
    for _ in range(20):
        again = client.get(f"fine_tuning/jobs/{job.id}", headers=headers)
        assert (again.status_code, remaining(again)) == (304, 4)


def test_the_sdk_waits_and_comes_through(guarded: Guarded, tmp_path):
    """A client beyond its rate is slowed down by Retry-After, and fails only where it may not retry."""
    guarded.application.state.doorkeeper.rates.quota = 60  # a request a second
    with serve(guarded.application) as url, OpenAI(base_url=f"{url}/v1", api_key=guarded.keys["mine", "reader"]) as sdk:
        rates: Rates = guarded.application.state.doorkeeper.rates
        sdk.files.list()
        rates._filled(guarded.keys["mine", "reader"][:11]).tokens = 0.0
        assert list(sdk.files.list()) == []
        rates._filled(guarded.keys["mine", "reader"][:11]).tokens = 0.0
        with pytest.raises(openai.RateLimitError) as refused:
            sdk.with_options(max_retries=0).files.list()
        assert refused.value.code == "rate_limit_exceeded"


def test_without_keys_there_are_no_limits(embedded):
    """On a loopback without keys nothing is counted: there is nobody to be protected from."""
    with TestClient(embedded, base_url="http://testserver/v1/") as client:
        assert "ratelimit" not in client.get("files").headers
