"""The first level of the multilinear hash as a Triton kernel for CUDA: one pass at the speed of memory.

A program keeps both lanes' keys in registers and goes from row to row with them, so that the only traffic is the data,
16 bytes per thread and load, and two sums per row. Importing this needs triton, which comes with torch for CUDA.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

WARPS = 8  # 256 threads: four words and eight keys each
PROGRAMS = 8  # per multiprocessor, so that one loads while another adds up


@triton.jit
def _sums(data, keys, sums, words, lead, rows, width: tl.constexpr):
    """sums[lane, row] of `words` words that begin at position `lead` of the first row; the rest counts as 0."""
    columns = tl.arange(0, width)
    wide = tl.full((1,), width, tl.int64)  # words are counted in 64 bits
    first = tl.load(keys + columns)
    second = tl.load(keys + width + columns)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        at = row * wide + columns - lead
        word = tl.load(data + at, mask=(at >= 0) & (at < words), other=0)
        word = word.to(tl.uint32, bitcast=True).to(tl.int64)  # zero-extended
        tl.store(sums + row, tl.sum(word * first, axis=0))
        tl.store(sums + rows + row, tl.sum(word * second, axis=0))


def row_sums(words: Tensor, keys: Tensor, *, lead: int) -> Tensor:
    """Sums of each lane and row, int64 [lanes, rows]. `words`: int32, beginning at word `lead` of its first row."""
    row = keys.shape[1]
    rows = -(-(lead + words.numel()) // row)
    sums = torch.empty(2, rows, dtype=torch.int64, device=words.device)
    programs = min(rows, PROGRAMS * _multiprocessors(words.device))
    if rows:
        _sums[(programs,)](words, keys, sums, words.numel(), lead, rows, width=row, num_warps=WARPS)
    return sums


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":  # triton's interpreter, in tests
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
