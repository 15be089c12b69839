"""Makes a folder of signed evidence as the current code writes it: `python -m tests.golden.make tests/golden/NAME`.

Run once per format, never again over the same folder: what it made is kept as it is, and every later version of the
verifier has to verify it. The keys are thrown away. With names of worlds, the folder has these alone.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.evidence.format.envelope import seal
from app.evidence.format.keys import TrustedKey, generate
from app.evidence.format.recipe import MEMBER, build
from app.evidence.format.statement import Row
from tests.tamper import recipes
from tests.tamper.kit import (
    NOW,
    World,
    adapter_rows,
    adapter_world,
    chained_world,
    file_bytes,
    fused_rows,
    fused_world,
    scheduled_rows,
    scheduled_world,
    sharded_world,
    split_rows,
    split_world,
    tied_rows,
    tied_world,
)
from tests.tamper.quantised import decoded_world, rows_of_decoded

WORLDS: dict[str, tuple[Callable[[Path], World], Callable[[World], tuple[Row, ...]]]] = {
    "plain": (World, World.rows),
    "sharded": (sharded_world, World.rows),
    "partly-frozen": (split_world, split_rows),
    "scheduled": (scheduled_world, scheduled_rows),
    "fused": (fused_world, fused_rows),
    "changed-only": (World, World.rows),
    "adapter": (adapter_world, adapter_rows),
    "chain": (chained_world, World.rows),
    "tie": (tied_world, tied_rows),
    "decoded": (decoded_world, rows_of_decoded),
}


def main(folder: Path, names: list[str]) -> None:
    keys = [generate("ed25519"), generate("ecdsa-p256")]
    for name in names or WORLDS:
        make, rows = WORLDS[name]
        root = folder / name
        if root.exists():
            raise SystemExit(f"{root} is there already; golden files are made once")
        world = make(root)
        if world.previous:
            world.previous.sign(keys=keys)
        kind = "adapter" if name in ("adapter", "decoded") else "full"
        sealed = world.sign(world.predicate(rows=rows(world), result_kind=kind), keys=keys)
        world.publish(sealed | {MEMBER: seal(build(recipes.honest(world)), keys)})
        if name == "changed-only":
            leave_changed(world)
        expected: dict[str, Any] = {"base_root": world.pinned, "job": "ftjob-1", "nonce": "n-1"}
        expected["needs_base"] = name in ("changed-only", "partly-frozen")
        expected["previous"] = ["first/attestation.json"] if world.previous else []
        (root / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    ring = [TrustedKey(key.public_pem, not_before=NOW.replace(year=2026, month=1)).to_json() for key in keys]
    (folder / "keys.json").write_text(json.dumps({"object": "list", "data": ring}, indent=1) + "\n")
    for key in keys:
        (folder / f"{key.algorithm}.pub").write_text(key.public_pem)


def leave_changed(world: World) -> None:
    tensors = world.result_weights["model.safetensors"]
    changed = {name: value for name, value in tensors.items() if not name.startswith("bert.enc.")}
    (world.result / "model.safetensors").unlink()
    (world.result / "model.changed.safetensors").write_bytes(file_bytes(changed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
