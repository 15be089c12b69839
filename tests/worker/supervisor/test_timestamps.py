"""Timestamps at a job's end and from the sweeps, by `openssl ts` behind HTTP; and what an authority can do wrong."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta

import pytest
from cryptography import x509
from sqlalchemy import update
from sqlalchemy.orm import undefer

from app.db import now
from app.evidence.format.der import elements
from app.evidence.format.timestamp import imprint, read_timestamp, refusal
from app.evidence.tables import Evidence
from tests.authority import Authority as LocalAuthority
from tests.authority import make, serving
from tests.conftest import Deployment
from tests.worker.supervisor.jobs import events_of, job_of, submit
from worker.supervisor import timestamps
from worker.supervisor.runner import Runner
from worker.supervisor.timestamps import Authority, AuthorityFailed, first_signature, recipe_signature, stamp_due


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> LocalAuthority:
    return make(tmp_path_factory.mktemp("tsa") / "tsa")


def evidence_of(deployment: Deployment, job_id: str) -> Evidence:
    with deployment.db.read() as session:
        return session.get_one(Evidence, job_id, options=[undefer(Evidence.envelope), undefer(Evidence.timestamp)])


def with_authority(runner: Runner, url: str) -> None:
    runner.settings = runner.settings.model_copy(update={"tsa_url": url})


def test_a_job_ends_with_a_timestamp(deployment: Deployment, runner: Runner, tsa: LocalAuthority) -> None:
    """Over the first signatures of statement and recipe, by the authority, and an event says so."""
    job_id = submit(deployment)
    with serving(tsa) as url:
        with_authority(runner, url)
        runner.run_next()
    row = evidence_of(deployment, job_id)
    assert row.envelope and row.timestamp and row.timestamp_due is None
    stamped, recipes = map(read_timestamp, elements(row.timestamp))
    assert stamped.sha256 == imprint(first_signature(row.envelope))
    assert [recipes.sha256] == [imprint(each) for each in recipe_signature(row.envelope)]
    assert refusal(stamped, [x509.load_pem_x509_certificate(tsa.roots.read_bytes())]) is None
    assert any("Timestamp attached: signed by 20" in event.message for event in events_of(deployment.db, job_id))


def test_an_authority_that_is_away_loses_no_job(deployment: Deployment, runner: Runner, tsa: LocalAuthority) -> None:
    """The job succeeds and says so; maintenance attaches the timestamp when the authority is back, once."""
    job_id = submit(deployment)
    with_authority(runner, "http://127.0.0.1:9/")
    runner.run_next()
    assert job_of(deployment.db, job_id).status == "succeeded"
    row = evidence_of(deployment, job_id)
    assert row.timestamp is None and row.timestamp_due
    assert any("gave no timestamp" in event.message for event in events_of(deployment.db, job_id))

    with serving(tsa) as url:
        assert stamp_due(deployment.db, Authority(url)) == 0  # it is not due yet
        make_due(deployment)
        assert stamp_due(deployment.db, Authority("http://127.0.0.1:9/")) == 0
        with deployment.db.read() as session:
            due = session.get_one(Evidence, job_id).timestamp_due
            assert due and due - now(session) > timestamp_distance()
        make_due(deployment)
        assert stamp_due(deployment.db, Authority(url)) == 1
        make_due(deployment)
        assert stamp_due(deployment.db, Authority(url)) == 0
    row = evidence_of(deployment, job_id)
    assert row.envelope and row.timestamp and row.timestamp_due is None
    signed = [first_signature(row.envelope), *recipe_signature(row.envelope)]
    assert [read_timestamp(each).sha256 for each in elements(row.timestamp)] == [imprint(each) for each in signed]
    said = [event.message for event in events_of(deployment.db, job_id)]
    assert sum("Timestamp attached" in message for message in said) == 1


def timestamp_distance() -> timedelta:
    return timestamps.SOONEST - timedelta(seconds=10)


def make_due(deployment: Deployment) -> None:
    with deployment.db.write() as session:
        waiting = Evidence.timestamp_due.is_not(None)
        session.execute(update(Evidence).where(waiting).values(timestamp_due=now(session) - timedelta(seconds=1)))


def test_no_authority_no_timestamp(deployment: Deployment, runner: Runner) -> None:
    """Nothing is due and no event is written: the date is by this machine's clock."""
    job_id = submit(deployment)
    runner.run_next()
    row = evidence_of(deployment, job_id)
    assert row.timestamp is None and row.timestamp_due is None
    assert not any("timestamp" in event.message.lower() for event in events_of(deployment.db, job_id))


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (500, b"", "status 500"),
        (302, b"", "status 302"),
        (200, b"<html>", "not an RFC 3161 timestamp"),
        (200, bytes(1 << 17), "more than 65536 bytes"),
    ],
)
def test_what_an_authority_answers_wrongly_is_named(tsa: LocalAuthority, status: int, answer: bytes, said: str) -> None:
    with serving(tsa, status=status, answer=answer) as url, pytest.raises(AuthorityFailed, match=said):
        Authority(url).stamp(b"signature", seconds=10)


def test_another_timestamp_than_the_one_asked_for_is_refused(tsa: LocalAuthority) -> None:
    """Of something else, or of the same thing earlier: a copy says nothing about now."""
    with serving(tsa, answer=tsa.stamp(b"other")) as url, pytest.raises(AuthorityFailed, match="something else"):
        Authority(url).stamp(b"signature", seconds=10)
    with serving(tsa, answer=tsa.stamp(b"signature")) as url, pytest.raises(AuthorityFailed, match="another nonce"):
        Authority(url).stamp(b"signature", seconds=10)


def test_an_authority_that_never_finishes_is_given_up() -> None:
    """Silent, or a byte now and then without end."""
    for drip in (False, True):
        with slow_server(drip=drip) as url:
            began = time.monotonic()
            with pytest.raises(AuthorityFailed):
                Authority(url).stamp(b"signature", seconds=0.5)
            assert time.monotonic() - began < 60


@contextmanager
def slow_server(*, drip: bool) -> Iterator[str]:
    stop = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with closing(connection):
                connection.recv(1 << 16)
                if drip:
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n")
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b"x" if drip else b"")
                    except OSError:
                        return

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        finally:
            stop.set()
            thread.join()


def test_a_damaged_envelope_is_named() -> None:
    for damaged in (b"", b"{}", json.dumps({"signatures": []}).encode()):
        with pytest.raises(AuthorityFailed, match="cannot be read"):
            first_signature(damaged)
    assert recipe_signature(b"{}") == []  # from before there were recipes
