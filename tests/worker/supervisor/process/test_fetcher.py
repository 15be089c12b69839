"""Processes that fetch: their secret comes through a pipe alone, and is in no message of theirs."""

import os
import time
from pathlib import Path

import pytest

from app.errors import DataError, SourceUnavailable
from worker.supervisor.process.fetcher import NO_SECRET, Fetcher, handed, take

SECRET = {"token": "hf_canary"}
MODULE = """
import json, os, pathlib, sys, time
from worker.supervisor.process.fetcher import take
answer, pipe, mode = sys.argv[1:]
secret = take(pipe)
around = [pathlib.Path("/proc/self/environ").read_text(), pathlib.Path("/proc/self/cmdline").read_text()]
if mode == "crash":
    sys.exit(f"Traceback: {secret['token']}")
if mode == "wait":
    time.sleep(600)
results = {
    "done": {"secret": secret, "around": around},
    "refuse": {"error": "no " + secret["token"], "param": "training_file", "code": "x"} if secret else {},
    "later": {"error": "away", "code": "y", "again": True},
}
pathlib.Path(answer).write_text(json.dumps(results[mode]))
"""


@pytest.fixture
def fetcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetcher:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "stand_in_fetcher.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the worker's")
    return Fetcher("stand_in_fetcher", home=tmp_path, refusal=DataError, param="model")


def test_the_secret_is_handed_over_and_visible_nowhere(fetcher: Fetcher, tmp_path: Path) -> None:
    """Neither in the environment nor in the command line; the worker's own secrets are not there at all."""
    got = fetcher.run(["done"], answer=tmp_path / "a.json", secret=SECRET, stop=lambda: False)
    assert got is not None and got["secret"] == SECRET
    assert "canary" not in "".join(got["around"]) and "the worker's" not in "".join(got["around"])
    got = fetcher.run(["done"], answer=tmp_path / "a.json", secret=None, stop=lambda: False)
    assert got is not None and got["secret"] is None


def test_what_it_refuses_and_what_may_succeed_later(fetcher: Fetcher, tmp_path: Path) -> None:
    """Refusals are the caller's kind of error; a crash and a source that is away may be tried again."""
    with pytest.raises(DataError) as refused:
        fetcher.run(["refuse"], answer=tmp_path / "a.json", secret=SECRET, stop=lambda: False)
    assert (refused.value.message, refused.value.param, refused.value.code) == ("no ***", "training_file", "x")
    with pytest.raises(SourceUnavailable) as away:
        fetcher.run(["later"], answer=tmp_path / "a.json", secret=SECRET, stop=lambda: False)
    assert (away.value.message, away.value.param, away.value.code) == ("away", "model", "y")
    with pytest.raises(SourceUnavailable, match=r"Traceback: \*\*\*"):
        fetcher.run(["crash"], answer=tmp_path / "a.json", secret=SECRET, stop=lambda: False)


def test_it_ends_when_nobody_wants_it(fetcher: Fetcher, tmp_path: Path) -> None:
    """A job that was cancelled meanwhile."""
    started = time.monotonic()
    assert fetcher.run(["wait"], answer=tmp_path / "a.json", secret=None, stop=lambda: True) is None
    assert time.monotonic() - started < 300


def test_a_pipe_is_read_once() -> None:
    """Without a secret there is no pipe."""
    with handed({"token": "x"}) as pipe:
        assert take(str(os.dup(pipe))) == {"token": "x"}
    with handed(None) as pipe:
        assert pipe == NO_SECRET and take(str(pipe)) is None
