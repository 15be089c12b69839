"""Reading the files at hand: large files, shards and links of the base, files that change."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.evidence.verifier import verify
from app.evidence.verifier.context import CannotCheck, CheckContext, Problem
from app.evidence.verifier.stages import STAGES
from tests.app.evidence.verifier.signed import run
from tests.tamper.kit import (
    KEY,
    World,
    file_bytes,
    sharded_world,
    tensor,
)

ROOT = Path(__file__).parents[4]


def test_large_files_are_digested_as_a_whole_when_that_is_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default small ones are; --whole does it for all, --quick for none, and they exclude each other."""
    monkeypatch.setattr(verify, "WHOLE_UP_TO", 100)
    note = "its SHA-256 as a whole"
    for options, noted in (((), True), (("--whole",), False), (("--quick",), True)):
        assert run(world, "--base", world.base, *options) == 0
        assert (note in capsys.readouterr().out) == noted
    monkeypatch.undo()
    assert run(world) == 0
    assert note not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        run(world, "--whole", "--quick")


def test_quick_reads_a_file_twice_rather_than_believe_its_header(world: World) -> None:
    """A result that another writer laid out has another header; it is then digested as a whole, and still verified."""
    path = world.result / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    path.write_bytes((length + 8).to_bytes(8, "little") + raw[8 : 8 + length] + b" " * 8 + raw[8 + length :])
    assert run(world, "--quick") == 1
    world.sign(world.predicate(issued_at=datetime.now(UTC)))
    assert run(world, "--quick") == 0
    assert run(world, "--quick", "--base", world.base) == 0
    world.base_weights["model.safetensors"]["enc.0.w"] = tensor("F32", 8, 8, seed="other")
    (world.base / "model.safetensors").write_bytes(file_bytes(world.base_weights["model.safetensors"]))
    assert run(world, "--quick", "--base", world.base) == 1


def test_shards_of_the_base_and_links_to_it(tmp_path: Path) -> None:
    """A base in a model cache is a folder of links; its root does not depend on how it is sharded."""
    world = World(tmp_path)
    whole = world.base_weights["model.safetensors"]
    world.sign()
    pinned = world.pinned
    shards = {
        name: {n: t for n, t in whole.items() if n.startswith("enc") == first}
        for name, first in (("a.safetensors", True), ("b.safetensors", False))
    }
    sharded = World(tmp_path / "sharded", base_weights=shards)
    assert sharded.pinned == pinned
    sharded.sign()
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in sharded.base.iterdir():
        (linked / file.name).symlink_to(file)
    (linked / "README.md").write_text("a base")
    assert sharded.verify(3, base=linked).level == 3


PEAK = """
import sys
from app.evidence.verifier.verify import main
status = main(sys.argv[1:])
# Not getrusage: its maximum is inherited from the process that started this one.
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0], file=sys.stderr)
sys.exit(status)
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Peak memory of verifying 96 MiB is that of verifying nothing, within a ring of buffers."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory of a process is read from Linux's /proc")
    peaks = []
    for size in (1 << 10, 24 << 20):
        world = World(tmp_path / str(size))
        for weights, name in ((world.base_weights, "emb.weight"), (world.result_weights, "bert.emb.weight")):
            weights["model.safetensors"][name] = ("F32", (size,), os.urandom(64) * (size // 16))
        world.write()
        world.sign(world.predicate(issued_at=datetime.now(UTC)))
        (world.root / "key.pub").write_text(KEY.public_pem)
        arguments = [world.attestation, "--key", world.root / "key.pub", "--result", world.result, "--base", world.base]
        command = [sys.executable, "-c", PEAK, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] - peaks[0] < 40 << 10  # KiB; two files at a time, a ring of 8 MiB each


def test_a_result_that_is_no_folder_is_not_a_forged_one(world: World) -> None:
    """What the reader gave cannot be listed: nothing is known about the claim."""
    world.sign()
    with pytest.raises(CannotCheck, match=r"config\.json"):
        world.verify(1, result=world.result / "config.json")


def test_a_file_swapped_after_it_was_read_is_not_read_again(tmp_path: Path) -> None:
    """The index that is compared is the very one that was digested."""
    world = sharded_world(tmp_path)
    world.sign()
    index = world.result / "model.safetensors.index.json"

    def swap(case: CheckContext) -> Iterator[Problem]:
        index.write_text("{}")
        return iter(())

    checks = {stage: dict(all_of) for stage, all_of in STAGES.items()}
    checks["result"] = {"swap": swap, **checks["result"]}
    assert world.verify(1, checks=checks).verified
    assert not world.verify(1).verified
