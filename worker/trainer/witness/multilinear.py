"""A keyed multilinear hash of a tensor's bytes, in integer arithmetic that any device does alike.

The bytes are 32-bit words in rows of 1024; two lanes, each with odd secret 64-bit keys per level, give every row the
sum of key times word mod 2^64; the sums are hashed again with fresh keys until one is left. An odd key is a unit mod
2^64, so one changed word always changes its row's sum; several words changed without knowing the keys escape with a
probability of at most 2^-62 (Carter & Wegman 1979; Lemire & Kaser, arXiv 1202.4961). Words are zero-extended: with
64-bit words two sign flips in a row would cancel under every key. Linear, so the sums must never be published.
"""

import functools
import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

ROW = 1024  # words
ROW_BYTES = 4 * ROW
LANES = 2
_CHUNK = 2048  # rows at a time: 16 MiB as 64-bit words


def multilinear(data: Tensor, secret: bytes) -> tuple[int, ...]:
    """One unsigned 64-bit sum per lane. `data`: uint8 [bytes], on any device."""
    return finish(level_one(data, secret), secret)


def level_one(data: Tensor, secret: bytes, *, offset: int = 0, total: int | None = None) -> Tensor:
    """Sums of the first level, int64 [lanes, rows of the whole].

    A shard that begins at byte `offset` of `total` gives its share of the whole tensor's sums; shares add up, in any
    order and however the bytes were cut.
    """
    total = data.numel() if total is None else total
    rows = max(1, -(-total // ROW_BYTES))
    keys = _keys(secret, 0, str(data.device))
    sums = torch.zeros(LANES, rows, dtype=torch.int64, device=data.device)
    first, lead = divmod(offset, ROW_BYTES)
    if (row_sums := _kernel(data.device.type)) is not None and lead % 4 == 0:
        part = row_sums(_as_words(data), keys, lead=lead // 4)
        sums[:, first : first + part.shape[1]] = part
        return sums
    reached = 0
    while reached < data.numel():
        piece = data[reached : reached + _CHUNK * ROW_BYTES - lead]
        words = _words(_padded(piece, lead)).view(-1, ROW)
        for lane in range(LANES):
            sums[lane, first : first + len(words)] += (words * keys[lane]).sum(1)
        reached, first, lead = reached + piece.numel(), first + len(words), 0
    return sums


@functools.cache
def _kernel(device: str) -> Callable[..., Tensor] | None:
    """The same sums faster, where there is a compiler for the device; they are the same numbers everywhere."""
    if device != "cuda":
        return None
    try:
        from worker.trainer.witness.kernel import row_sums
    except ImportError:  # torch for CUDA brings triton along; builds for other systems may not
        return None
    return row_sums


def finish(sums: Tensor, secret: bytes) -> tuple[int, ...]:
    """Hash the sums again until one is left in each lane."""
    level = 1
    while sums.shape[1] > 1:
        keys = _keys(secret, level, str(sums.device))
        lanes = [_words(_padded(lane.contiguous().view(torch.uint8), 0)).view(-1, ROW) for lane in sums]
        sums = torch.stack([(words * key).sum(1) for words, key in zip(lanes, keys, strict=True)])
        level += 1
    return tuple(int(value) % 2**64 for value in sums[:, 0].tolist())


def _padded(data: Tensor, lead: int) -> Tensor:
    """Zeros in front and behind up to whole rows: they add nothing to a sum, and length is compared by itself."""
    tail = -(lead + data.numel()) % ROW_BYTES
    return torch.nn.functional.pad(data, (lead, tail)) if lead or tail else data


def _words(data: Tensor) -> Tensor:
    """32-bit words, zero-extended to 64 bits."""
    return _as_words(data).to(torch.int64) & 0xFFFFFFFF


def _as_words(data: Tensor) -> Tensor:
    """The bytes as int32; the last word is filled up with zeros."""
    if data.numel() % 4:
        data = torch.nn.functional.pad(data, (0, -data.numel() % 4))
    if data.storage_offset() % 4:
        data = data.clone()  # a 16-bit tensor may begin in the middle of a word
    return data.view(torch.int32)


@functools.lru_cache(maxsize=64)
def _keys(secret: bytes, level: int, device: str) -> Tensor:
    """Odd 64-bit keys, int64 [lanes, ROW], drawn from the secret."""
    stream = hashlib.shake_256(secret + level.to_bytes(1, "little")).digest(8 * LANES * ROW)
    keys = torch.frombuffer(bytearray(stream), dtype=torch.int64) | 1
    return keys.view(LANES, ROW).to(device)
