"""Hypothesis strategies for tensors, readings and rows."""

import hashlib

from hypothesis import strategies as st

from app.evidence.format.statement import FrozenInterval, Reading, Row, RowSlice, changed
from app.evidence.format.tensorfile import DTYPE_BITS, byte_count

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda name: name != "__metadata__")
whole_dtypes = st.sampled_from([dtype for dtype, bits in DTYPE_BITS.items() if bits % 8 == 0])
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
metadata = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), st.text(st.characters(codec="utf-8")))
digests = st.binary(max_size=4).map(lambda seed: hashlib.sha256(seed).hexdigest())


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, tuple[int, ...], bytes]:
    """dtype, shape, data"""
    dtype, shape = draw(whole_dtypes), draw(shapes)
    size = byte_count(dtype, shape)
    return dtype, shape, draw(st.binary(min_size=size, max_size=size))


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    dtype, shape = draw(whole_dtypes), draw(shapes)
    return Reading(draw(names), dtype, shape, byte_count(dtype, shape), draw(digests))


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Rows with every kind of field; they need not make sense together."""
    base, result, initial = (draw(st.none() | readings()) for _ in range(3))
    pairs = st.tuples(st.integers(0, 9), st.integers(0, 9))
    return Row(
        name=draw(names),
        kind=draw(st.sampled_from(["parameter", "buffer"])),
        role=draw(st.sampled_from(["frozen", "trainable", "split", "new", "buffer", "dropped", "scheduled"])),
        mechanism=draw(st.none() | st.sampled_from(["requires_grad", "detach", "param_group"])),
        rule=draw(names),
        aliases=tuple(draw(st.lists(names, max_size=2))),
        module_types=tuple(draw(st.lists(names, max_size=2))),
        persistent=draw(st.booleans()),
        dtype=draw(st.none() | whole_dtypes),
        shape=draw(st.none() | shapes),
        part=draw(st.none() | pairs),
        base=base,
        result=result,
        initial=initial,
        loaded=draw(st.none() | digests),
        trained=draw(st.none() | digests),
        changed=changed(base, result),
        slices=tuple(
            draw(
                st.lists(
                    st.builds(RowSlice, pairs, st.sampled_from(["freeze", "train"]), *[st.none() | digests] * 3),
                    max_size=2,
                )
            )
        ),
        intervals=tuple(
            draw(
                st.lists(
                    st.builds(FrozenInterval, st.integers(0, 9), st.none() | st.integers(0, 9), digests, digests),
                    max_size=2,
                )
            )
        ),
    )
