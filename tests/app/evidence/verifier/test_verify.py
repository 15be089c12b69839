import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from app.evidence.format.statement import build
from app.evidence.verifier import verify
from tests.app.evidence.verifier.signed import run
from tests.tamper.kit import (
    NOW,
    World,
    flipped,
)

ROOT = Path(__file__).parents[4]


def test_exit_status_says_what_came_of_it(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """0 verified, at the level that the inputs allow; 1 rejected, with tensor and digests; 2 could not check."""
    assert run(world) == 0
    assert "VERIFIED, level 1" in capsys.readouterr().out
    assert run(world, "--base-root", world.pinned) == 0
    assert "VERIFIED, level 2" in capsys.readouterr().out
    assert run(world, "--base", world.base, "--base-root", world.pinned) == 0
    assert "VERIFIED, level 3" in capsys.readouterr().out
    world.edit_result("bert.enc.0.w", lambda t: (t[0], t[1], flipped(t[2])))
    assert run(world) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("REJECTED")
    assert "bert.enc.0.w: other bytes in the result's files" in printed
    assert printed.count("expected ") == printed.count("found ") == 2
    shutil.rmtree(world.result)
    assert run(world) == 2
    assert "COULD NOT CHECK" in capsys.readouterr().out


def test_as_a_module_the_exit_status_gets_out(world: World) -> None:
    """`python -m app.evidence.verifier.verify` ends with main's status, and prints JSON for machines."""
    command = [sys.executable, "-m", "app.evidence.verifier.verify", str(world.attestation), "--json"]
    command += ["--key", str(world.root / "key.pub"), "--result", str(world.result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, report["verdict"], report["level"]) == (0, "verified", 1)
    assert report["frozen"]["tensors"] == 4
    assert report["base_root"] == world.pinned
    (world.result / "extra").touch()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, report["verdict"], report["level"]) == (1, "rejected", None)
    assert [problem["check"] for problem in report["problems"]] == ["nothing_extra"]


def test_as_one_file(world: World, tmp_path: Path) -> None:
    """The zipapp of `make verifier` needs nothing of the repository, and a rejection is not a success."""
    from tools.verifier import build

    app = build(tmp_path / "dist" / "verify.pyz")
    command = [sys.executable, "-I", str(app), str(world.attestation), "--key", str(tmp_path / "key.pub")]
    command += ["--result", str(world.result), "--base", str(world.base)]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (world.result / "config.json").write_bytes(b"{}")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1
    world.attestation.unlink()
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 2


def test_a_signer_can_ask_before_it_signs(tmp_path: Path) -> None:
    """What the statement says by itself, without a key or a file."""
    honest = World(tmp_path).predicate()
    assert verify.objections(build(honest), now=NOW) == ()
    found = verify.objections(build(replace(honest, violations=("head.w",))), now=NOW)
    assert [one.check for one in found] == ["no_violations"]
    assert [one.check for one in verify.objections(b"{}")] == ["readable"]


def test_what_cannot_be_checked_is_not_rejected(world: World, tmp_path: Path) -> None:
    """Missing paths, keys that are none, a policy that is none: the claim may well be true."""
    assert run(world, "--base", tmp_path / "nowhere") == 2
    assert run(world, "--key", tmp_path / "nowhere") == 2
    assert run(world, "--key", world.attestation) == 2
    assert run(world, "--policy", tmp_path / "nowhere") == 2
    (tmp_path / "bad.json").write_text('{"freezing": []}')
    assert run(world, "--policy", tmp_path / "bad.json") == run(world, "--policy", '{"freezing": []}') == 2
    for bad in (b"[" * 100_000, b'{"freeze": ["a"], "freeze": ["b"]}', b"\xff", b"[]"):
        (tmp_path / "bad.json").write_bytes(bad)
        assert run(world, "--policy", tmp_path / "bad.json") == 2
    (world.base / "config.json").unlink()
    (world.base / "config.json").symlink_to("config.json")
    assert run(world, "--base", world.base) == 2
    with pytest.raises(SystemExit, match="2"):
        run(world, "--base-root", "abc")


@pytest.mark.parametrize(("flip", "status"), [(0, 0), (1, 1)], ids=["honest", "flipped"])
def test_a_reader_that_has_seen_enough_gets_the_status(world: World, flip: int, status: int) -> None:
    """As in `permafrost verify ... | head -1`: a closed pipe is no rejection and no traceback."""
    path = world.result / "model.safetensors"
    path.write_bytes(flipped(path.read_bytes(), -1 % path.stat().st_size, flip))
    command = [
        sys.executable,
        "-m",
        "app.evidence.verifier.verify",
        str(world.attestation),
        "--result",
        str(world.result),
    ]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*command, "--key", str(world.root / "key.pub")], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (status, b"")


def test_an_attestation_beyond_the_bound_is_not_read(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with world.attestation.open("r+b") as file:
        file.truncate(verify.MAX_ATTESTATION + 1)  # takes no room
    assert run(world) == 2
    assert f"at most {verify.MAX_ATTESTATION}" in capsys.readouterr().out
