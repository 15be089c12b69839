"""A small fine-tune with its evidence, and the means to tamper with either.

`World` is honest until it is told otherwise: a base, a result trained from it, a signing key and a claim about both.
Tensors are bytes; nothing here is trained.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.evidence.format import envelope
from app.evidence.format.digest import TensorReading, read_file, sha256_bytes, sha256_file
from app.evidence.format.keys import SigningKey, TrustedKey, generate
from app.evidence.format.statement import (
    FileRef,
    FrozenInterval,
    Predicate,
    Reading,
    Row,
    RowSlice,
    base_readings,
    build,
    changed,
    total,
)
from app.evidence.format.tensorfile import TensorEntry, byte_count, header_bytes, in_file_order
from app.evidence.verifier.check_policy import plan_of
from app.evidence.verifier.context import Check, Inputs
from app.evidence.verifier.report import VerificationReport
from app.evidence.verifier.verify import verify
from app.freeze.policy import Policy

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
KEY = generate()
POLICY = {"rules": [{"id": "encoder", "action": "freeze", "select": {"name": "bert.enc.**"}}]}

Tensor = tuple[str, tuple[int, ...], bytes]  # dtype, shape, data


def tensor(dtype: str, *shape: int, seed: str) -> Tensor:
    """Bytes that depend on the seed alone and are ordinary numbers in every dtype (no NaN: the top bits stay clear)."""
    size = byte_count(dtype, shape)
    stream = b"".join(hashlib.sha256(f"{seed}/{n}".encode()).digest() for n in range(size // 32 + 1))
    return dtype, shape, bytes(byte & 0x3F for byte in stream[:size])


def file_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file as the reference writer makes it."""
    entries, data, at = [], [], 0
    for name, _ in in_file_order((name, dtype) for name, (dtype, _, _) in tensors.items()):
        dtype, shape, raw = tensors[name]
        entries.append(TensorEntry(name, dtype, shape, at, at + len(raw)))
        data.append(raw)
        at += len(raw)
    return header_bytes(entries, {"format": "pt"} if metadata is None else metadata) + b"".join(data)


def flipped(data: bytes, at: int = 0, mask: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def base_tensors() -> dict[str, Tensor]:
    return {
        "emb.weight": tensor("F32", 8, 4, seed="emb"),
        "enc.0.w": tensor("F32", 8, 8, seed="0w"),
        "enc.0.b": tensor("BF16", 8, seed="0b"),
        "enc.1.w": tensor("F32", 8, 8, seed="1w"),
        "enc.1.mean": tensor("F32", 8, seed="mean"),
        "pooler.w": tensor("F32", 8, 8, seed="pooler"),
    }


def result_tensors() -> dict[str, Tensor]:
    """The encoder as it was, under the classifier's prefix; the embedding trained; a new head; the pooler gone."""
    base = base_tensors()
    kept = {f"bert.{name}": base[name] for name in ("enc.0.w", "enc.0.b", "enc.1.w", "enc.1.mean")}
    return {
        **kept,
        "bert.emb.weight": tensor("F32", 8, 4, seed="trained"),
        "head.b": tensor("F32", 2, seed="hb"),
        "head.w": tensor("F32", 2, 8, seed="hw"),
    }


@dataclass
class World:
    """Folders, files and a claim under `root`; `write` makes them anew from the attributes."""

    root: Path
    base_weights: dict[str, dict[str, Tensor]] = field(default_factory=lambda: {"model.safetensors": base_tensors()})
    result_weights: dict[str, dict[str, Tensor]] = field(
        default_factory=lambda: {"model.safetensors": result_tensors()}
    )
    result_files: dict[str, bytes] = field(default_factory=lambda: {"config.json": b'{"model_type": "toy"}'})
    policy: dict[str, Any] = field(default_factory=lambda: dict(POLICY))
    key: SigningKey = KEY
    trusted: tuple[TrustedKey, ...] = (TrustedKey(KEY.public_pem),)
    unstored: tuple[Row, ...] = ()
    previous: "World | None" = None  # whose result this world's base is

    def __post_init__(self) -> None:
        self.base, self.result = self.root / "base", self.root / "result"
        self.attestation = self.root / "attestation.json"
        self.write()
        self.pinned = total(base_readings(self.rows())).root

    def write(self) -> None:
        for folder, weights, files in (
            (self.base, self.base_weights, {"config.json": b"{}"}),
            (self.result, self.result_weights, self.result_files),
        ):
            folder.mkdir(parents=True, exist_ok=True)
            for name, tensors in weights.items():
                (folder / name).write_bytes(file_bytes(tensors))
            for name, data in files.items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(data)
            if len(weights) > 1:
                index = {"metadata": {}, "weight_map": {t: file for file, ts in weights.items() for t in ts}}
                (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    def rows(self) -> tuple[Row, ...]:
        """What an honest supervisor would claim: readings of the files, roles by the policy."""
        base, result = readings(self.base), readings(self.result)
        drafts = []
        for name, after in result.items():
            before = base.get(name) or base.get(name.removeprefix("bert."))
            kind = "buffer" if name.endswith("mean") else "parameter"
            initial = None if before else after
            drafts.append(_row(name, role="new", kind=kind, base=before, result=after, initial=initial))
        drafts += self.unstored
        plan = plan_of(drafts, self.policy)
        rows = []
        for row in drafts:
            decision = plan.decision(row.name)
            rows.append(row._replace(rule=decision.rule, mechanism=decision.mechanism, role=_role(row, decision)))
        used = {row.base.name for row in rows if row.base}
        rows += [_row(name, role="dropped", base=base[name]) for name in sorted(set(base) - used)]
        return tuple(rows)

    def predicate(self, **changes: Any) -> Predicate:
        policy = Policy.from_json(changes.pop("policy", self.policy))
        draft = Predicate(
            job_id="ftjob-1",
            attempt=1,
            nonce="n-1",
            issued_at=NOW,
            policy=policy.to_json(),
            policy_digest=policy.digest(),
            base_files=_files(self.base),
            result_files=_files(self.result),
            rows=changes.pop("rows") if "rows" in changes else self.rows(),
            observed={"checks": 41, "first_step": 0, "last_step": 400, "fingerprint": "xxh3-128"},
            metadata={"format": "pt"},
            previous=sha256_bytes(self.previous.payload()) if self.previous else None,
        )
        return replace(draft, **changes)

    def payload(self) -> bytes:
        return base64.b64decode(json.loads(self.attestation.read_text())["payload"])

    def chain(self) -> tuple[bytes, ...]:
        """The attestations before this one, nearest first."""
        return (self.previous.attestation.read_bytes(), *self.previous.chain()) if self.previous else ()

    def sign(
        self,
        predicate: Predicate | None = None,
        *,
        document: Callable[[dict[str, Any]], Any] | None = None,
        payload: Callable[[bytes], bytes] | None = None,
        keys: Iterable[SigningKey] | None = None,
    ) -> dict[str, Any]:
        """Sign a claim (the honest one unless given) after editing the parsed statement in place, or its bytes."""
        raw = build(predicate or self.predicate())
        if document:
            parsed = json.loads(raw)
            document(parsed)
            raw = json.dumps(parsed, ensure_ascii=False, separators=(",", ":")).encode()
        if payload:
            raw = payload(raw)
        sealed = envelope.seal(raw, [self.key] if keys is None else keys)
        self.publish(sealed)
        return sealed

    def publish(self, sealed: dict[str, Any] | str) -> None:
        self.attestation.write_text(sealed if isinstance(sealed, str) else json.dumps(sealed))

    def verify(
        self, level: int, *, checks: Mapping[str, Mapping[str, Check]] | None = None, **options: Any
    ) -> VerificationReport:
        """As a reader with nothing (1), with the base's root (2) or with the base's files (3)."""
        given: dict[int, dict[str, Any]] = {1: {}, 2: {"base_root": self.pinned}, 3: {"base": self.base}}
        given[level] |= {"keys": self.trusted, "now": NOW, "result": self.result, "previous": self.chain()}
        options = {**given[level], **options}
        inputs = Inputs(attestation=self.attestation, **options)
        return verify(self.attestation.read_bytes(), inputs, checks=checks)

    def edit_result(self, name: str, change: Callable[[Tensor], Tensor], file: str = "model.safetensors") -> None:
        """Change one tensor of the result file, and nothing else."""
        self.result_weights[file][name] = change(self.result_weights[file][name])
        self.write()


def forged(rows: Iterable[Row], name: str, /, **changes: Any) -> tuple[Row, ...]:
    """The rows with one of them changed, its `changed` flag brought in line unless it is given."""
    made = []
    for row in rows:
        if row.name == name and row.role != "dropped":
            row = row._replace(**changes)
            row = row if "changed" in changes else row._replace(changed=changed(row.base, row.result))
        made.append(row)
    assert made != list(rows), f"no row {name}"
    return tuple(made)


def row_of(rows: Iterable[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)


def slices_of(base: Tensor, result: Tensor, ranges: Mapping[tuple[int, int], str]) -> tuple[RowSlice, ...]:
    """Digests of row ranges of a tensor in the base and in the result."""
    width = len(base[2]) // base[1][0]
    return tuple(
        RowSlice(rows, action, *(sha256_bytes(data[2][rows[0] * width : rows[1] * width]) for data in (base, result)))
        for rows, action in ranges.items()
    )


def split_world(root: Path) -> World:
    """The embedding's rows 6 and 7 train, rows 0 to 5 are frozen."""
    base, result = base_tensors(), result_tensors()
    old, new = base["emb.weight"][2], result["bert.emb.weight"][2]
    result["bert.emb.weight"] = ("F32", (8, 4), old[: 6 * 16] + new[6 * 16 :])
    rules = [
        {"id": "new-rows", "action": "train", "select": {"name": "bert.emb.weight", "rows": [[6, 8]]}},
        {"id": "rest", "action": "freeze", "select": {"name": ["bert.emb.weight", "bert.enc.**"]}},
    ]
    return World(root, result_weights={"model.safetensors": result}, policy={"rules": rules})


def split_rows(world: World) -> tuple[Row, ...]:
    base, result = world.base_weights["model.safetensors"], world.result_weights["model.safetensors"]
    slices = slices_of(base["emb.weight"], result["bert.emb.weight"], {(0, 6): "freeze", (6, 8): "train"})
    return forged(world.rows(), "bert.emb.weight", slices=slices)


def scheduled_world(root: Path) -> World:
    """The embedding is frozen for the first ten steps."""
    when = [{"from_step": 0, "to_step": 10}]
    rules = [*POLICY["rules"], {"id": "later", "action": "freeze", "select": {"name": "bert.emb.weight"}, "when": when}]
    return World(root, policy={"rules": rules})


def scheduled_rows(world: World, *, after: str | None = None, before: str | None = None) -> tuple[Row, ...]:
    rows = world.rows()
    start = row_of(rows, "bert.emb.weight").base
    assert start is not None
    span = FrozenInterval(0, 10, before or start.sha256, after or before or start.sha256)
    return forged(rows, "bert.emb.weight", intervals=(span,))


def twice_frozen_world(root: Path) -> World:
    """The embedding is frozen for the first ten steps, and again from step 20 to the end."""
    world = scheduled_world(root)
    world.policy["rules"][1]["when"].append({"from_step": 20, "to_step": None})
    return world


def twice_frozen_rows(world: World) -> tuple[Row, ...]:
    rows = scheduled_rows(world)
    row = row_of(rows, "bert.emb.weight")
    assert row.result is not None
    end = row.result.sha256
    return forged(rows, "bert.emb.weight", intervals=(*row.intervals, FrozenInterval(20, None, end, end)))


def fused_world(root: Path) -> World:
    """Two stored tensors of one expert make up one live tensor."""
    names = {"w1": "bert.mlp.experts.0.w1.weight", "w3": "bert.mlp.experts.0.w3.weight"}
    stored = {name: tensor("F32", 2, 4, seed=key) for key, name in names.items()}
    rules = [*POLICY["rules"], {"id": "experts", "action": "freeze", "select": {"name": "bert.mlp.**"}}]
    world = World(
        root,
        base_weights={"model.safetensors": base_tensors()},
        policy={"rules": rules[:1]},
    )
    world.base_weights["model.safetensors"].update({name.removeprefix("bert."): t for name, t in stored.items()})
    world.result_weights["model.safetensors"].update(stored)
    world.policy = {"rules": rules}
    world.write()
    return world


def fused_rows(world: World, *, second: tuple[int, int] = (2, 4)) -> tuple[Row, ...]:
    world_policy, world.policy = world.policy, POLICY
    rows = [row for row in world.rows() if ".experts." not in row.name and not row.name.startswith("mlp.")]
    world.policy = world_policy
    base, result = readings(world.base), readings(world.result)
    for key, part in (("w1", (0, 2)), ("w3", second)):
        name = f"mlp.experts.0.{key}.weight"
        rows.append(
            Row(
                name="bert.mlp.experts.gate_up_proj",
                role="frozen",
                rule="experts",
                mechanism="requires_grad",
                dtype="F32",
                shape=(4, 4),
                part=part,
                base=base[name],
                result=result[f"bert.{name}"],
                changed=False,
            )
        )
    world.pinned = total(base_readings(rows)).root
    return tuple(rows)


def tied_world(root: Path, *, frozen: bool = True) -> World:
    """The embedding is the decoder's weight too, and base and result store it under both names."""
    world = World(root)
    for weights, prefix in ((world.base_weights, ""), (world.result_weights, "bert.")):
        tensors = weights["model.safetensors"]
        if frozen:
            tensors[f"{prefix}emb.weight"] = base_tensors()["emb.weight"]
        tensors[f"{prefix}dec.weight"] = tensors[f"{prefix}emb.weight"]
    if frozen:
        names = ["bert.enc.**", "bert.emb.weight", "bert.dec.weight"]
        world.policy = {"rules": [{"id": "all", "action": "freeze", "select": {"name": names}}]}
    world.write()
    world.pinned = total(base_readings(world.rows())).root
    return world


def tied_rows(world: World) -> tuple[Row, ...]:
    owner, copy = "bert.emb.weight", "bert.dec.weight"
    return forged(forged(world.rows(), owner, aliases=(copy,)), copy, alias_of=owner)


def sharded_world(root: Path) -> World:
    tensors = result_tensors()
    first = {name: value for name, value in tensors.items() if name.startswith("bert.enc.0")}
    second = {name: value for name, value in tensors.items() if name not in first}
    files = {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": second}
    return World(root, result_weights=files)


def chained_world(root: Path) -> World:
    """A fine-tune of a fine-tune: `enc.0` is frozen in both, `enc.1` in the first alone."""
    first = World(root / "first")
    first.sign()
    trained = {**result_tensors(), "bert.enc.1.w": tensor("F32", 8, 8, seed="later")}
    policy = {"rules": [{"id": "lower", "action": "freeze", "select": {"name": "bert.enc.0.**"}}]}
    world = World(
        root,
        base_weights={"model.safetensors": result_tensors()},
        result_weights={"model.safetensors": trained},
        policy=policy,
        previous=first,
    )
    world.pinned = first.pinned
    return world


def adapter_world(root: Path) -> World:
    """The result is a LoRA adapter of `enc.0.w` alone; all of the base stays where it is."""
    world = World(root, policy={"rules": POLICY["rules"]})
    (world.result / "model.safetensors").unlink()
    stored = [f"base_model.model.enc.0.w.lora_{half}.weight" for half in "AB"]
    world.result_weights = {"adapter_model.safetensors": {name: tensor("F32", 2, 8, seed=name) for name in stored}}
    world.policy = {"train": ["**.default.weight"]}
    world.write()
    return world


def adapter_rows(world: World) -> tuple[Row, ...]:
    """peft's live names: a layer under `base_layer`, an adapter under its own name `default`."""
    rows = []
    for name, reading in readings(world.result).items():
        live = name.replace(".weight", ".default.weight")
        rows.append(_row(live, role="new", rule="rule-1", initial=reading, result=reading))
    for name, reading in readings(world.base).items():
        live = "base_model.model." + name.replace("enc.0.w", "enc.0.base_layer.w")
        rows.append(_row(live, role="frozen", mechanism="requires_grad", base=reading))
    return tuple(rows)


def _row(name: str, **fields: Any) -> Row:
    return Row(name=name, changed=changed(fields.get("base"), fields.get("result")), **fields)


def _role(row: Row, decision: Any) -> str:
    if not row.persistent:
        return "buffer"
    if row.base is None:
        return "new"
    if decision.action == "freeze":
        return "scheduled" if decision.scheduled else "frozen"
    if decision.action == "split":
        return "split"
    return "buffer" if decision.kind == "buffer" else "trainable"


def readings(folder: Path) -> dict[str, Reading]:
    """What the safetensors files of a folder hold, by name."""
    return {t.name: _reading(t) for path in sorted(folder.glob("*.safetensors")) for t in read_file(path).tensors}


def _reading(found: TensorReading) -> Reading:
    return Reading(found.name, found.dtype, found.shape, found.nbytes, found.sha256)


def _files(folder: Path) -> tuple[FileRef, ...]:
    files = sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    return tuple(FileRef(str(path.relative_to(folder)), path.stat().st_size, sha256_file(path)) for path in files)
