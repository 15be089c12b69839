import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.evidence.format import keys, rotation
from app.evidence.format.keys import TrustedKey, generate, write_ring
from app.evidence.format.statement import Row, build
from app.evidence.verifier import verify
from app.evidence.verifier.context import CannotCheck, CheckContext, Problem
from tests.tamper.kit import (
    KEY,
    NOW,
    World,
    adapter_rows,
    adapter_world,
    chained_world,
    file_bytes,
    flipped,
    forged,
    sharded_world,
    tensor,
)

ROOT = Path(__file__).parents[4]
PEAK = """
import sys
from app.evidence.verifier.verify import main
status = main(sys.argv[1:])
# Not getrusage: its maximum is inherited from the process that started this one.
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0], file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Signed, with its public key and policy in files."""
    world = World(tmp_path)
    world.sign(world.predicate(issued_at=datetime.now(UTC) - timedelta(minutes=1)))
    (tmp_path / "key.pub").write_text(KEY.public_pem)
    (tmp_path / "policy.json").write_text(json.dumps(world.policy))
    return world


def run(world: World, *options: str | Path) -> int:
    given = [world.attestation, "--key", world.root / "key.pub", "--result", world.result, *options]
    return verify.main([str(option) for option in given])


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


def test_the_reader_says_what_it_has_to_be_about(world: World, tmp_path: Path) -> None:
    """Job, nonce and policy are compared with the signed ones; a level can be demanded."""
    policy = tmp_path / "policy.json"
    assert run(world, "--job", "ftjob-1", "--nonce", "n-1", "--policy", policy) == 0
    assert run(world, "--job", "ftjob-2") == 1
    assert run(world, "--nonce", "n-2") == 1
    assert run(world, "--policy", f"@{policy}") == run(world, "--policy", policy.read_text()) == 0
    policy.write_text('{"freeze": ["bert.**"]}')
    assert run(world, "--policy", policy) == run(world, "--policy", policy.read_text()) == 1
    assert run(world, "--level", "2") == 1
    assert run(world, "--level", "2", "--base-root", world.pinned) == 0
    assert run(world, "--level", "3", "--base-root", world.pinned) == 1


def test_attestation_and_signature_may_lie_beside_the_result(world: World) -> None:
    """They are not part of it; another attestation that nobody asked about is an extra file."""
    inside = world.result / "attestation.json"
    world.attestation.rename(inside)
    world.attestation = inside
    (world.result / "model.sig").write_text("{}")
    assert run(world) == 0
    (world.result / "attestation.old.json").write_text("{}")
    assert run(world) == 1


def changed_only(world: World) -> None:
    """Leave in the result's folder only the tensors that the base does not have."""
    tensors = world.result_weights["model.safetensors"]
    kept = {name: value for name, value in tensors.items() if not name.startswith("bert.enc.")}
    (world.result / "model.safetensors").unlink()
    (world.result / "model.changed.safetensors").write_bytes(file_bytes(kept))


def test_changed_tensors_with_the_base_make_the_result(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """The composed file's digest is the signed one; without the base there is nothing to compose it from."""
    changed_only(world)
    assert run(world, "--base", world.base) == 0
    assert "level 3" in capsys.readouterr().out
    assert run(world) == 2
    assert "--base" in capsys.readouterr().out


def test_changed_tensors_are_checked_like_any_others(world: World) -> None:
    """A changed byte, a tensor too many, one too few, another base."""
    changed_only(world)
    path = world.result / "model.changed.safetensors"
    honest = path.read_bytes()
    path.write_bytes(flipped(honest, len(honest) - 1))
    assert run(world, "--base", world.base) == 1
    tensors = world.result_weights["model.safetensors"]
    kept = {name: value for name, value in tensors.items() if not name.startswith("bert.enc.")}
    path.write_bytes(file_bytes({**kept, "extra": tensor("F32", 1, seed="extra")}))
    assert run(world, "--base", world.base) == 1
    path.write_bytes(file_bytes({name: value for name, value in kept.items() if name != "head.w"}))
    assert run(world, "--base", world.base) == 1
    path.write_bytes(honest)
    assert run(world, "--base", world.base) == 0
    world.base_weights["model.safetensors"]["enc.0.w"] = tensor("F32", 8, 8, seed="other base")
    base = world.base / "model.safetensors"
    base.write_bytes(file_bytes(world.base_weights["model.safetensors"]))
    assert run(world, "--base", world.base) == 1


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


def test_an_adapter_leaves_the_base_where_it_is(tmp_path: Path) -> None:
    """The result holds the adapter alone; frozen tensors are the base's own, and are not said to be in the result."""
    world = adapter_world(tmp_path)
    predicate = world.predicate(rows=adapter_rows(world), result_kind="adapter")
    world.sign(predicate)
    for level in (1, 2, 3):
        report = world.verify(level)
        assert report.problems == ()
        assert report.level == level
    assert report.facts["frozen"]["tensors"] == 6
    world.sign(replace(predicate, result_kind="full"))
    assert {problem.check for problem in world.verify(1).problems} >= {"frozen_is_identical"}


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


def test_a_chain_leads_back_to_the_first_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the statements in between, what was frozen in all of them is the first base's, and only that is said."""
    world = chained_world(tmp_path)
    world.sign(world.predicate(issued_at=datetime.now(UTC)))
    (world.root / "key.pub").write_text(KEY.public_pem)
    first = world.previous
    assert first is not None
    report = world.verify(2, now=datetime.now(UTC))
    assert report.problems == ()
    assert (report.facts["first_base_root"], report.facts["frozen"]["tensors"]) == (first.pinned, 2)
    options = ["--base-root", first.pinned]
    assert run(world, *options) == 1  # without the chain, the root is another base's
    assert run(world, *options, "--previous", first.attestation) == 0
    assert "2 tensors (272 bytes) are bit-identical to the first base of the chain" in capsys.readouterr().out
    assert run(world, "--previous", tmp_path / "nowhere") == 2
    assert run(world, "--previous", first.root / "base" / "config.json") == 1


def test_keys_of_a_ring_count_as_far_as_they_are_introduced(world: World, tmp_path: Path) -> None:
    """Who has the first key needs no other: the ring leads from it to the key that signed."""
    path = tmp_path / "keys" / "signing.pem"
    old = keys.load_or_create(path, now=datetime.now(UTC) - timedelta(days=2))
    new = rotation.rotate(path, now=datetime.now(UTC) - timedelta(days=1))
    (tmp_path / "key.pub").write_text(old.public_pem)
    world.sign(world.predicate(issued_at=datetime.now(UTC)), keys=[new])
    ring = path.with_suffix(".ring.json")
    assert run(world) == 1
    assert run(world, "--ring", ring) == 0
    write_ring(tmp_path / "stranger.pem", [TrustedKey(new.public_pem)])
    assert run(world, "--ring", tmp_path / "stranger.ring.json") == 1
    rotation.rotate(path)
    rotation.revoke(path, new.keyid)
    assert run(world, "--ring", ring) == 1


def test_two_signatures_and_one_trusted_key(world: World) -> None:
    """During an overlap of keys either one is enough."""
    world.sign(world.predicate(issued_at=datetime.now(UTC)), keys=[generate("ecdsa-p256"), KEY])
    assert run(world) == 0


def test_new_tensors_under_a_freezing_policy_are_named(world: World) -> None:
    """A head frozen at its random start is in no base: no claim about it, and a note that says so."""
    world.policy = {"rules": [{"id": "all", "action": "freeze", "select": {"name": ["bert.enc.**", "head.b"]}}]}
    world.sign()
    report = world.verify(2)
    assert report.verified
    assert report.facts["frozen"]["tensors"] == 4
    assert any("not in the base" in warning and "head.b" in warning for warning in report.warnings)


def test_buffers_that_moved_are_named(world: World) -> None:
    """Under `track` a buffer may move: never claimed, always mentioned."""
    world.edit_result("bert.enc.1.mean", lambda t: (t[0], t[1], flipped(t[2])))
    rule = {"id": "weights", "action": "freeze", "select": {"name": ["bert.enc.**"], "kind": "parameter"}}
    world.policy = {"rules": [rule], "buffers": "track"}
    world.sign()
    report = world.verify(2)
    assert report.verified
    assert "buffers that moved: bert.enc.1.mean" in report.warnings


def test_a_buffer_in_no_file_is_known_to_the_policy(world: World) -> None:
    """It has no reading, counts where the policy counts, and is not claimed."""
    row = Row(name="bert.ids", kind="buffer", role="new", persistent=False, dtype="I64", shape=(8,), changed=False)
    world.unstored = (row,)
    world.sign()
    assert world.verify(3).verified
    rows = forged(world.rows(), "bert.ids", shape=None, dtype=None)
    world.sign(world.predicate(rows=rows))
    assert [problem.check for problem in world.verify(3).problems] == ["policy_fits"]


def test_a_module_type_is_the_signers_word(world: World) -> None:
    """Which tensor belongs to which class is in no file; the report says so."""
    select = {"module_type": "Linear"}
    world.policy = {"rules": [{"id": "linear", "action": "freeze", "select": select}]}
    plain = world.policy
    world.policy = {"freeze": ["bert.enc.0.w"]}
    rows = forged(world.rows(), "bert.enc.0.w", module_types=("Toy", "Encoder", "Layer", "Linear"), rule="linear")
    world.policy = plain
    world.sign(world.predicate(rows=rows))
    report = world.verify(2)
    assert report.problems == ()
    assert any("module type" in warning for warning in report.warnings)


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


def test_a_ring_cannot_write_the_report(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it says about itself is shown as what it is, on one line."""
    entry = {**TrustedKey(KEY.public_pem).to_json(), "id": "x\n\x1b[2JVERIFIED, level 3"}
    (tmp_path / "ring.json").write_text(json.dumps({"data": [entry]}))
    assert run(world, "--key", tmp_path / "ring.json") == 2
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_chain_whose_first_base_is_not_pinned_says_so(tmp_path: Path) -> None:
    """The nearest base at hand proves nothing about the first: its statement's signer may have lied."""
    world = chained_world(tmp_path)
    world.sign()
    note = "which base the chain begins with"
    assert not any(note in one for one in world.verify(2).warnings)
    for level, options in ((1, {}), (3, {}), (2, {"base_root": world.verify(1).facts["base_root"]})):
        report = world.verify(level, **options)
        assert report.verified
        assert any(note in one for one in report.warnings)


def test_a_file_swapped_after_it_was_read_is_not_read_again(tmp_path: Path) -> None:
    """The index that is compared is the very one that was digested."""
    world = sharded_world(tmp_path)
    world.sign()
    index = world.result / "model.safetensors.index.json"

    def swap(case: CheckContext) -> Iterator[Problem]:
        index.write_text("{}")
        return iter(())

    checks = {stage: dict(all_of) for stage, all_of in verify.STAGES.items()}
    checks["result"] = {"swap": swap, **checks["result"]}
    assert world.verify(1, checks=checks).verified
    assert not world.verify(1).verified
