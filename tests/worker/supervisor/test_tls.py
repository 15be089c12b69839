"""Certificates of HTTPS servers."""

import ssl

import httpx2
import pytest

from tests.authority import make, serving
from worker.supervisor.timestamps import Authority
from worker.supervisor.tls import certificates


def test_servers_are_held_against_them() -> None:
    """One context for all requests, and one that checks certificate and name."""
    assert certificates() is certificates()
    assert certificates().verify_mode is ssl.CERT_REQUIRED and certificates().check_hostname


def test_a_timestamp_reads_none_anew(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without a context of its own makes one, whatever the URL."""
    tsa = make(tmp_path_factory.mktemp("tsa") / "tsa")
    certificates()

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("certificates are read anew")

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", refused)
    monkeypatch.setattr(ssl, "create_default_context", refused)
    with serving(tsa) as url:
        assert Authority(url).stamp(b"signature", seconds=10)
    with pytest.raises(AssertionError, match="read anew"):
        httpx2.Client()
