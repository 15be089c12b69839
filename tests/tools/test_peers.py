import subprocess
import sys
from pathlib import Path

import pytest

from tools import peers
from tools.peers import Peer, PeerError, command, install, ready, wanted


def test_every_version_is_exact() -> None:
    """What a peer was measured or tested with can be had again."""
    for name in ("model-signing", "mlflow", "triton"):
        versions = wanted(name).versions
        assert any(one.startswith(f"{name}==") for one in versions)
        assert all(one.count("==") == 1 and ">" not in one for one in versions)


def test_an_unknown_peer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The message lists those that there are."""
    assert peers.main(["model-singing"]) == 1
    assert "no peer 'model-singing'; there are: model-signing, mlflow, triton" in capsys.readouterr().err


def test_made_once_and_again_for_other_versions(tmp_path: Path) -> None:
    """An environment that is whole and of these versions is kept; one that an interruption left is made anew."""
    place, peer = tmp_path / "empty", Peer("empty", "python", ("pip",))
    place.mkdir()
    (place / "half").touch()
    assert not ready(place, peer)
    install(peer, place)
    assert ready(place, peer)
    assert not (place / "half").exists()
    assert not ready(place, Peer("empty", "python", ("pip", "setuptools")))


def test_what_cannot_be_had_says_why(tmp_path: Path) -> None:
    """pip's own words are in the message, and the next call tries again."""
    place, peer = tmp_path / "absent", Peer("absent", "absent", ("not-a-wheel.whl",))
    with pytest.raises(PeerError, match=r"(?s)absent could not be installed.*not a valid wheel filename"):
        install(peer, place)
    assert not ready(place, peer)


def test_a_peers_command_runs() -> None:
    """It is the peer's own program, in its own environment."""
    tool = command("model-signing")
    done = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("1.1.1")
    assert Path(sys.prefix) in tool.parents
