"""`permafrost diff A B`: lists the tensors that differ between two safetensors models.

Tensors are read in chunks, so a model may be larger than memory. With --freeze the exit status is 1 if a tensor that
the policy freezes differs from A in any bit, and 2 if that cannot be checked.
"""

import argparse
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from app.errors import PolicyError
from app.evidence.diff.changes import CHUNK, ByteSource, Change, Span, compare, compare_values
from app.evidence.diff.pairing import notes, pair
from app.evidence.format.digest import read_header, row_bytes
from app.evidence.format.strict import JsonError, read_json, repeated_keys
from app.evidence.format.tensorfile import TensorFileError
from app.evidence.verifier.check_policy import read_policy
from app.evidence.verifier.context import printable
from app.freeze.plan import Decision, FreezePlan, TensorInfo, resolve
from app.freeze.policy import Policy
from app.jsontypes import JsonDict

SAME, FROZEN_CHANGED, CANNOT_CHECK = 0, 1, 2
INDEX = "model.safetensors.index.json"
MAX_INDEX = 64 << 20  # bytes: of half a million tensors

STATUSES = ("same", "changed", "dtype", "shape", "added", "removed")


class DiffError(Exception):
    """Inputs that cannot be compared."""


@dataclass(frozen=True, slots=True)
class ModelTensor:
    """A tensor and a source of its bytes. Tensors whose digests are both known and equal are not read."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    source: ByteSource
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """The comparison of one tensor. With `status` "dtype" or "shape" its bits cannot be compared."""

    name: str  # in B; a removed tensor's in A
    status: str
    base: ModelTensor | None
    result: ModelTensor | None
    change: Change | None = None

    def to_json(self) -> JsonDict:
        return {
            "name": self.name,
            "status": self.status,
            "base": _form(self.base),
            "result": _form(self.result),
            "change": self.change.to_json() if self.change else None,
        }


@dataclass(frozen=True, slots=True)
class PolicyViolation:
    """A tensor that a policy freezes and that differs from the base."""

    name: str
    rule: str
    reason: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run `permafrost diff` and return its exit status."""
    options = _parser().parse_args(argv)
    try:
        with ExitStack() as stack:
            base, result = (stack.enter_context(open_model(path)) for path in (options.a, options.b))
            plan = plan_of(base, result, _policy(options.freeze)) if options.freeze else None
            found, remarks = [], list(notes(base, result))
            for difference in differences(base, result, statistics=not options.quick):
                found.append(difference)
                if not options.json and (options.all or difference.status != "same"):
                    print(_line(difference), flush=True)
            broken = violations(found, plan) if plan else []
    except (DiffError, TensorFileError, PolicyError, OSError) as error:
        return _cannot(options, error)
    _report(options, found, broken, remarks, audited=plan is not None)
    return FROZEN_CHANGED if broken else SAME


def diff_models(a: Path | str, b: Path | str, *, statistics: bool = True) -> list[Difference]:
    """What changed from model `a` to model `b` (safetensors files or folders), one entry for every tensor of either.

    Tensors are compared by raw bytes, dtype and shape. `statistics=False` leaves out how much each one changed.
    Raises DiffError when the two cannot be compared, TensorFileError for a damaged file.
    """
    with open_model(Path(a)) as base, open_model(Path(b)) as result:
        return list(differences(base, result, statistics=statistics))


def differences(
    base: Mapping[str, ModelTensor], result: Mapping[str, ModelTensor], *, statistics: bool = True
) -> Iterator[Difference]:
    """One Difference for every tensor of either model, by name.

    Names may differ by one common prefix (`bert.`), and by the parts of wrappers (`_orig_mod.`).
    """
    partner = pair(base, result)
    for name in sorted(result, key=str.encode):
        mine = partner[name]
        yield _difference(base[mine] if mine is not None else None, result[name], statistics=statistics)
    for name in sorted(set(base) - set(partner.values()), key=str.encode):
        yield Difference(name, "removed", base[name], None)


def plan_of(base: Mapping[str, ModelTensor], result: Mapping[str, ModelTensor], policy: Policy) -> FreezePlan:
    """The plan for the tensors of the result and for those that only the base has. Raises PolicyError.

    Files do not hold kinds or module types: all tensors count as parameters.
    """
    lost = set(base) - set(pair(base, result).values())
    tensors = [*result.values(), *(base[name] for name in lost)]
    # An audit may freeze everything; only training needs something that trains.
    return resolve(replace(policy, enforce=False), [TensorInfo(one.name, one.shape, one.dtype) for one in tensors])


def violations(found: Iterable[Difference], plan: FreezePlan) -> list[PolicyViolation]:
    """Frozen tensors that are not identical to the base."""
    by_name = {difference.name: difference for difference in found}
    broken = []
    for decision in (*plan.frozen, *plan.scheduled, *plan.split):
        reason = _broken(by_name[decision.name], decision)
        if reason:
            broken.append(PolicyViolation(decision.name, decision.rule, reason))
    return sorted(broken, key=lambda violation: violation.name.encode())


@contextmanager
def open_model(path: Path) -> Iterator[dict[str, ModelTensor]]:
    """The tensors of a safetensors file, or of a folder of them (those that its index names, where it has one)."""
    files = [path] if path.is_file() else _files(path)
    opened: list[int] = []
    tensors: dict[str, ModelTensor] = {}
    try:
        for file in files:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a named pipe has no writer
            opened.append(descriptor)
            for one in _tensors(descriptor, file):
                if one.name in tensors:
                    raise DiffError(f"{path}: tensor {one.name!r} is in two files")
                tensors[one.name] = one
        yield tensors
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _tensors(descriptor: int, file: Path) -> Iterator[ModelTensor]:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise DiffError(f"{file} is not a regular file")
    try:
        header, _ = read_header(descriptor, size=status.st_size)
    except TensorFileError as error:
        raise DiffError(f"{file}: {error}") from None
    for entry in header.entries:
        source = Span(descriptor, header.data_start + entry.start)
        yield ModelTensor(entry.name, entry.dtype, entry.shape, entry.nbytes, source)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DiffError(f"{folder} is neither a safetensors file nor a folder")
    if (folder / INDEX).is_file():
        return _indexed(folder)
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DiffError(f"{folder} holds no safetensors file")
    return files


def _indexed(folder: Path) -> list[Path]:
    try:
        if (folder / INDEX).stat().st_size > MAX_INDEX:
            raise DiffError(f"{folder / INDEX} has more than {MAX_INDEX} bytes")
        index = read_json((folder / INDEX).read_bytes())
        for key in repeated_keys(index):
            raise DiffError(f"{folder / INDEX}: key {key!r} appears twice")
        names = set(index["weight_map"].values())
    except (JsonError, KeyError, TypeError, AttributeError) as error:
        raise DiffError(f"{folder / INDEX} has no weight_map: {error}") from None
    strange = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if strange:
        raise DiffError(f"{folder / INDEX} names a file outside its folder: {strange[0]!r}")
    return [folder / name for name in sorted(names)]


def _difference(base: ModelTensor | None, result: ModelTensor, *, statistics: bool) -> Difference:
    if base is None:
        return Difference(result.name, "added", None, result)
    if base.shape != result.shape:
        return Difference(result.name, "shape", base, result)
    if base.dtype != result.dtype:
        change = _values(base, result) if statistics else None
        return Difference(result.name, "dtype", base, result, change)
    if _identical(base, result):
        return Difference(result.name, "same", base, result)
    change = compare(base.source, result.source, dtype=base.dtype, shape=base.shape) if statistics else None
    return Difference(result.name, "changed", base, result, change)


def _values(base: ModelTensor, result: ModelTensor) -> Change | None:
    return compare_values(
        base.source, result.source, base_dtype=base.dtype, result_dtype=result.dtype, shape=base.shape
    )


def _identical(base: ModelTensor, result: ModelTensor) -> bool:
    if base.sha256 is not None and base.sha256 == result.sha256:
        return True
    return _equal(base, result, 0, base.nbytes)


def _equal(base: ModelTensor, result: ModelTensor, start: int, stop: int) -> bool:
    return all(
        base.source.read(at, min(at + CHUNK, stop)) == result.source.read(at, min(at + CHUNK, stop))
        for at in range(start, stop, CHUNK)
    )


def _broken(difference: Difference, decision: Decision) -> str | None:
    """Why a frozen tensor is not the base's, or None."""
    if decision.scheduled:
        return None if difference.status == "same" else "frozen for some steps, which files cannot show"
    reasons = {
        "changed": "its bytes changed",
        "dtype": "its dtype changed",
        "shape": "its shape changed",
        "added": "it is not in the base",
        "removed": "it is not in the result",
    }
    if difference.status != "changed" or decision.action != "split":
        return reasons.get(difference.status)
    assert difference.base is not None
    assert difference.result is not None
    width = row_bytes(difference.base.shape, difference.base.nbytes)
    for start, stop in decision.frozen_rows:
        if not _equal(difference.base, difference.result, start * width, stop * width):
            return f"its rows {start} to {stop} changed"
    return None


def _form(stored: ModelTensor | None) -> JsonDict | None:
    if stored is None:
        return None
    return {"name": stored.name, "dtype": stored.dtype, "shape": list(stored.shape), "nbytes": stored.nbytes}


def _policy(texts: Sequence[str]) -> Policy:
    """Globs, or one file with a policy."""
    if len(texts) == 1 and Path(texts[0]).is_file():
        try:
            return read_policy(Path(texts[0]).read_bytes())
        except PolicyError as error:
            raise DiffError(f"{texts[0]} is not a freeze policy: {error}") from None
    return Policy.from_json({"freeze": list(texts)})


def _line(difference: Difference) -> str:
    change, name = difference.change, printable(difference.name)
    if change is None:
        forms = " -> ".join(f"{one.dtype} {list(one.shape)}" for one in (difference.base, difference.result) if one)
        return f"{difference.status:8} {name}  {forms}"
    parts = [f"{change.changed:,} of {change.elements:,} elements ({change.fraction:.2%})"]
    if change.max_ulp is not None:
        parts.append(f"ulp median {change.median_ulp:,} max {change.max_ulp:,}")
    if change.relative_l2 is not None:
        parts.append(f"relative L2 {change.relative_l2:.2e}")
    if change.non_finite:
        parts.append(f"{change.non_finite:,} not finite")
    return f"{difference.status:8} {name}  {', '.join(parts)}"


def _report(
    options: argparse.Namespace,
    found: list[Difference],
    broken: list[PolicyViolation],
    remarks: list[str],
    *,
    audited: bool,
) -> None:
    counts = {status: sum(one.status == status for one in found) for status in STATUSES}
    if options.json:
        document: JsonDict = {"counts": counts, "notes": remarks, "tensors": [one.to_json() for one in found]}
        if audited:
            document["verdict"] = "violated" if broken else "identical"
            document["violations"] = [{"name": one.name, "rule": one.rule, "reason": one.reason} for one in broken]
        print(json.dumps(document, indent=1))
        return
    for remark in remarks:
        print(f"note: {printable(remark)}")
    print(", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no tensors")
    if audited:
        for one in broken:
            print(f"FROZEN, BUT: {printable(one.name)}: {one.reason} (rule {one.rule})")
        if not broken:
            print("every frozen tensor is bit-identical")


def _cannot(options: argparse.Namespace, error: Exception) -> int:
    if options.json:
        print(json.dumps({"verdict": "unchecked", "reason": str(error)}))
    else:
        print(f"COULD NOT COMPARE: {printable(str(error))}", file=sys.stderr)
    return CANNOT_CHECK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="permafrost diff",
        description="Show what changed between two safetensors models, tensor by tensor.",
        epilog="Exit status: 0, or 1 when a frozen tensor (--freeze) changed, or 2 when the models cannot be compared.",
    )
    parser.add_argument("a", type=Path, metavar="A", help="base: a safetensors file or a folder")
    parser.add_argument("b", type=Path, metavar="B", help="result: a safetensors file or a folder")
    parser.add_argument(
        "--freeze", action="append", metavar="GLOB|POLICY.json", help="tensors of B that must be A's; repeatable"
    )
    parser.add_argument("--all", action="store_true", help="list tensors that are the same, too")
    parser.add_argument("--quick", action="store_true", help="no statistics")
    parser.add_argument("--json", action="store_true", help="write a report for machines")
    return parser


if __name__ == "__main__":
    sys.exit(main())
