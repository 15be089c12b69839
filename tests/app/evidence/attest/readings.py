"""Readings and observations of a small model, and the verdict on them."""

from collections.abc import Mapping
from typing import Any

from app.evidence.attest.observations import read_observations
from app.evidence.attest.verdict import JobVerdict, judge
from app.evidence.format.digest import SliceReading, TensorReading, sha256_bytes
from app.freeze.policy import Policy

FROZEN = Policy.from_json({"freeze": ["enc.**"]})


OLD, NEW, OTHER = (sha256_bytes(text) for text in (b"old", b"new", b"other"))


def reading(name: str, sha256: str, **changes: Any) -> TensorReading:
    values: dict[str, Any] = {"dtype": "F32", "shape": (4, 2), "nbytes": 32, "offset": 0}
    return TensorReading(name, sha256=sha256, **(values | changes))


def seen(name: str, loaded: str | None = OLD, trained: str | None = OLD, **changes: Any) -> dict[str, Any]:
    """One tensor of observations.json."""
    values = {
        "name": name,
        "shape": [4, 2],
        "dtype": "F32",
        "loaded": loaded,
        "trained": trained,
        "base": [{"name": name, "rows": None}],
        "result": name,
    }
    return values | changes


#: An honest run: `enc.w` is frozen, `head.w` trains.
HONEST = (seen("enc.w"), seen("head.w", OLD, NEW))


BASE = {"enc.w": OLD, "head.w": OLD}


RESULT = {"enc.w": OLD, "head.w": NEW}


def judged(
    *tensors: dict[str, Any],
    base: Mapping[str, str | TensorReading] = BASE,
    result: Mapping[str, str | TensorReading] = RESULT,
    policy: Policy = FROZEN,
    **options: Any,
) -> JobVerdict:
    files = [
        {name: reading(name, each) if isinstance(each, str) else each for name, each in side.items()}
        for side in (base, result)
    ]
    observed = read_observations({"tensors": list(tensors or HONEST)})
    return judge(policy, observed, base=files[0], result=files[1], **options)


def tie(trained: str = OLD, copies: tuple[str, ...] = ("emb.w", "dec.w")) -> dict[str, Any]:
    """One live tensor with two names, stored under both."""
    pieces = [{"name": name, "rows": None} for name in copies]
    return seen("emb.w", OLD, trained, aliases=["dec.w"], base=pieces, result=pieces)


TIED = Policy.from_json({"freeze": ["emb.w", "dec.w"]})


HEAD = ({"head.w": OLD}, {"head.w": NEW})


ROWS = Policy.from_json(
    {
        "rules": [
            {"id": "new", "action": "train", "select": {"name": "emb.w", "rows": [[2, 4]]}},
            {"id": "old", "action": "freeze", "select": {"name": "emb.w"}},
        ]
    }
)


def sliced(frozen: str | None, trained: str, whole: str) -> TensorReading:
    slices = (SliceReading(2, 4, trained),)
    return reading("emb.w", whole, slices=slices + ((SliceReading(0, 2, frozen),) if frozen else ()))


def embedding(**changes: Any) -> dict[str, Any]:
    spans = [
        {"rows": [0, 2], "action": "freeze", "loaded": OLD, "trained": OLD},
        {"rows": [2, 4], "action": "train", "loaded": OLD, "trained": NEW},
    ]
    return seen("emb.w", OLD, NEW, slices=spans) | changes
