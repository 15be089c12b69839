"""A reader of logs that nobody here wrote takes ours."""

import sys

import pytest

from tools import log_interop
from tools.peers import PeerError


@pytest.mark.slow
def test_another_reader_takes_our_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Checkpoint, tiles, entries, proof, consistency, and a witness' cosignature."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    try:
        status = log_interop.main()
    except PeerError as error:
        pytest.skip(f"aics-tlog cannot be had: {error}")
    assert status == 0, capsys.readouterr().out
    assert capsys.readouterr().out.count("ok ") == 6
