import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.evidence.diff import diff
from app.evidence.diff.diff import DiffError, ModelTensor, differences, main, open_model, plan_of, violations
from app.evidence.format.tensorfile import TensorEntry, TensorFileError, header_bytes
from app.freeze.policy import Policy
from tests.app.evidence.held import Held
from tests.tamper.kit import Tensor, base_tensors, file_bytes, flipped, result_tensors, tensor

ROOT = Path(__file__).parents[4]


def write(folder: Path, tensors: dict[str, Tensor], name: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(file_bytes(tensors))
    return folder


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """A base and what was trained from it, under another prefix."""
    return write(tmp_path / "a", base_tensors()), write(tmp_path / "b", result_tensors())


def stored(tensors: dict[str, Tensor]) -> dict[str, ModelTensor]:
    return {name: ModelTensor(name, d, s, len(data), Held(data)) for name, (d, s, data) in tensors.items()}


def test_tells_what_became_of_every_tensor(models: tuple[Path, Path]) -> None:
    """Same, changed, new and gone, with statistics where bytes changed."""
    with open_model(models[0]) as base, open_model(models[1]) as result:
        found = {one.name: one for one in differences(base, result)}
    assert {name: one.status for name, one in found.items()} == {
        "bert.emb.weight": "changed",
        "bert.enc.0.b": "same",
        "bert.enc.0.w": "same",
        "bert.enc.1.mean": "same",
        "bert.enc.1.w": "same",
        "head.b": "added",
        "head.w": "added",
        "pooler.w": "removed",
    }
    change = found["bert.emb.weight"].change
    assert change is not None
    assert 0 < change.changed <= change.elements == 32
    assert list(found) == sorted(found, key=lambda name: (found[name].status == "removed", name))


def test_dtypes_and_shapes_are_differences_of_their_own(tmp_path: Path) -> None:
    """A cast keeps values and no identity; another shape over the same bytes is another tensor."""
    data = tensor("BF16", 4, seed="half")[2]
    wide = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, 8, 2))
    base: dict[str, Tensor] = {"cast": ("BF16", (4,), data), "view": ("F32", (4,), wide)}
    result: dict[str, Tensor] = {"cast": ("F32", (4,), wide), "view": ("F32", (2, 2), wide)}
    found = {one.name: one for one in differences(stored(base), stored(result))}
    assert (found["cast"].status, found["view"].status) == ("dtype", "shape")
    assert found["cast"].change is not None
    assert found["cast"].change.changed == 0


def test_known_digests_save_the_reading() -> None:
    """Tensors of a registered model need not be read when they are equal."""

    class Unreadable:
        def read(self, start: int, stop: int) -> bytes:
            raise AssertionError("read")

    one = ModelTensor("a", "F32", (2,), 8, Unreadable(), "ab" * 32)
    assert [found.status for found in differences({"a": one}, {"a": one})] == ["same"]


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def test_an_audit_of_somebodys_fine_tune(models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0 when what the glob freezes is the base's, 1 with the names when not, 2 when the glob means nothing."""
    a, b = models
    assert run(a, b, "--freeze", "bert.enc.**") == 0
    assert "every frozen tensor is bit-identical" in capsys.readouterr().out
    assert run(a, b, "--freeze", "bert.**", "--freeze", "head.b") == 1
    printed = capsys.readouterr().out
    assert "FROZEN, BUT: bert.emb.weight: its bytes changed" in printed
    assert "FROZEN, BUT: head.b: it is not in the base" in printed
    assert "bert.enc" not in printed
    assert run(a, b, "--freeze", "pooler.**") == 1
    assert "it is not in the result" in capsys.readouterr().out
    assert run(a, b, "--freeze", "gpt.**") == 2
    assert "gpt.**" in capsys.readouterr().err
    assert run(a, b) == 0


def test_an_audit_by_a_policy_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same policy language; frozen rows are compared as rows, and freezing everything is no error here."""
    base = base_tensors()
    old = base["emb.weight"][2]
    policy = tmp_path / "policy.json"
    rows = {"id": "new", "action": "train", "select": {"name": "emb.weight", "rows": [[6, 8]]}}
    policy.write_text(json.dumps({"default": "freeze", "rules": [rows]}))
    a = write(tmp_path / "a", base)
    last = {**base, "emb.weight": ("F32", (8, 4), flipped(old, len(old) - 1))}
    assert run(a, write(tmp_path / "b", last), "--freeze", policy, "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "identical"
    first = {**base, "emb.weight": ("F32", (8, 4), flipped(old))}
    assert run(a, write(tmp_path / "c", first), "--freeze", policy, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["violations"] == [{"name": "emb.weight", "rule": "new", "reason": "its rows 0 to 6 changed"}]
    assert report["counts"]["same"] == 5
    assert run(a, a, "--freeze", "**") == 0
    policy.write_text("{")
    assert run(a, a, "--freeze", policy, "--json") == 2


def test_a_schedule_cannot_be_seen_in_files() -> None:
    """A tensor that was frozen for some steps and changed is not said to be fine."""
    base, result = stored(base_tensors()), stored({**base_tensors(), "enc.0.w": tensor("F32", 8, 8, seed="new")})
    when = [{"from_step": 0, "to_step": 10}]
    rule = {"id": "later", "action": "freeze", "select": {"name": "enc.0.w"}, "when": when}
    plan = plan_of(base, result, Policy.from_json({"rules": [rule]}))
    assert [one.name for one in violations(differences(base, result), plan)] == ["enc.0.w"]
    assert violations(differences(base, base), plan) == []


def test_sharded_models_and_single_files(tmp_path: Path) -> None:
    """An index names the files to read; a file may be given instead of a folder."""
    base = base_tensors()
    shards = {"1.safetensors": dict(list(base.items())[:3]), "2.safetensors": dict(list(base.items())[3:])}
    for name, tensors in shards.items():
        write(tmp_path / "sharded", tensors, name)
    write(tmp_path / "sharded", {"emb.weight": tensor("F32", 1, seed="stray")}, "stray.safetensors")
    index = tmp_path / "sharded" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, ts in shards.items() for name in ts}}))
    whole = write(tmp_path / "whole", base) / "model.safetensors"
    with open_model(whole) as one, open_model(tmp_path / "sharded") as other:
        assert {found.status for found in differences(one, other)} == {"same"}
    index.write_text(json.dumps({"weight_map": {"a": "../evil.safetensors"}}))
    with pytest.raises(DiffError, match="outside its folder"), open_model(tmp_path / "sharded"):
        pass
    index.write_text("[]")
    with pytest.raises(DiffError, match="weight_map"), open_model(tmp_path / "sharded"):
        pass
    index.unlink()
    with pytest.raises(DiffError, match="in two files"), open_model(tmp_path / "sharded"):
        pass


def test_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No folder, no weights, broken weights: exit 2 with the reason, also as JSON."""
    a = write(tmp_path / "a", base_tensors())
    (tmp_path / "empty").mkdir()
    broken = write(tmp_path / "broken", base_tensors())
    (broken / "model.safetensors").write_bytes(b"\xff" * 20)
    for other in (tmp_path / "nowhere", tmp_path / "empty", broken):
        assert run(a, other) == 2
        assert "COULD NOT COMPARE" in capsys.readouterr().err
        assert run(a, other, "--json") == 2
        assert json.loads(capsys.readouterr().out)["verdict"] == "unchecked"


def test_a_model_larger_than_memory_would_do(tmp_path: Path) -> None:
    """Peak memory of comparing changed tensors of 96 MiB stays within a few chunks of that for small ones."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory of a process is read from Linux's /proc")
    script = """
import sys
from app.evidence.diff.diff import main
status = main(sys.argv[1:])
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0], file=sys.stderr)
"""
    peaks = []
    for size in (1 << 10, 24 << 20):
        data = os.urandom(1 << 10) * (size >> 8)
        a = write(tmp_path / "a", {"w": ("F32", (size,), data)})
        b = write(tmp_path / "b", {"w": ("F32", (size,), flipped(data, len(data) - 3))})
        command = [sys.executable, "-c", script, str(a), str(b)]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
        assert "1 of " in done.stdout
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] - peaks[0] < 90 << 10  # KiB; a chunk of 6 MiB is widened to float64 and to 64-bit words


def test_quick_leaves_the_statistics_out(models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Whether, not how much."""
    assert run(*models, "--quick", "--json") == 0
    tensors = json.loads(capsys.readouterr().out)["tensors"]
    assert {one["change"] is None for one in tensors} == {True}
    assert sum(one["status"] == "changed" for one in tensors) == 1
    assert diff.STATUSES == ("same", "changed", "dtype", "shape", "added", "removed")


def test_weights_that_are_pipes_or_end_early(models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Neither is waited for, and neither is a frozen tensor that changed."""
    a, b = models
    (b / "model.safetensors").unlink()
    os.mkfifo(b / "part.safetensors")
    assert run(a, b) == 2
    assert "not a regular file" in capsys.readouterr().err
    with open_model(a) as base, open_model(a) as result:
        os.truncate(a / "model.safetensors", 400)
        with pytest.raises(TensorFileError, match="ends before"):
            list(differences(base, result))


def test_an_index_means_one_thing(models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two weight maps are two models, and an index larger than any is not read."""
    a, _ = models
    (a / "model.safetensors.index.json").write_text('{"weight_map": {}, "weight_map": {"w": "model.safetensors"}}')
    with pytest.raises(DiffError, match="appears twice"), open_model(a):
        pass
    os.truncate(a / "model.safetensors.index.json", 1 << 36)
    with pytest.raises(DiffError, match="more than"), open_model(a):
        pass


def test_policies_that_are_none(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Bottomless or ambiguous ones end with 2, not with what means that a frozen tensor changed."""
    for text in ("[" * 100_000, '{"freeze": ["bert.enc.**"], "freeze": ["head.w"]}'):
        (tmp_path / "policy.json").write_text(text)
        assert run(*models, "--freeze", tmp_path / "policy.json") == 2


@pytest.mark.slow
def test_files_of_gigabytes_in_little_memory(tmp_path: Path) -> None:
    """Two models of 1 GiB that differ in their last byte, in a process that may have three quarters of one."""
    size = 1 << 30
    header = header_bytes([TensorEntry("w", "F32", (size // 4,), 0, size)])
    for name in "ab":
        with (tmp_path / f"{name}.safetensors").open("wb") as file:
            file.write(header)
            file.truncate(len(header) + size)  # zeros that take no room
            file.seek(len(header) + size - 1)
            file.write(name.encode())
    script = (
        "import resource, sys\n"
        "from app.evidence.diff.diff import main\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 29 | 1 << 28,) * 2)\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, *(str(tmp_path / f"{name}.safetensors") for name in "ab"), "--quick"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--freeze", "w"], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "1 changed" in done.stdout


def test_a_wrapped_model_is_compared_without_the_wrapper(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint of a compiled model: what became of each tensor is found, and the report says how."""
    wrapped = write(tmp_path / "c", {f"_orig_mod.{name}": one for name, one in result_tensors().items()})
    assert run(models[0], wrapped) == 0
    printed = capsys.readouterr().out
    assert "7 names in B have '_orig_mod.', a part that torch.compile puts into them" in printed
    assert run(models[0], wrapped, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["counts"]["removed"] == 1
    assert report["counts"]["same"] == 4
    assert len(report["notes"]) == 1
    assert run(models[0], models[1], "--json") == 0
    assert json.loads(capsys.readouterr().out)["notes"] == []


def test_a_git_lfs_pointer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkout without Git LFS has a few lines of text in place of the weights."""
    pointer = tmp_path / "model.safetensors"
    pointer.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 440473133\n")
    assert run(pointer, pointer) == 2
    assert "a Git LFS pointer" in (printed := capsys.readouterr().err)
    assert "git lfs pull" in printed
