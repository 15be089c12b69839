"""Pages by what lies in them: frozen tensors of a file, and nothing that may be written to."""

from __future__ import annotations

import mmap
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from worker.trainer.readonly.spans import PageSpan, Range, private_file_mappings, spans
from worker.trainer.witness.guard import memory

PAGE = mmap.PAGESIZE
MAPPED = [(10 * PAGE, 30 * PAGE), (40 * PAGE, 50 * PAGE)]


def cut(frozen: dict[str, Range], others: list[Range] | None = None) -> list[tuple[int, int, list[str]]]:
    found = spans(frozen.items(), others or [], MAPPED)
    return [(span.start // PAGE, span.stop // PAGE, [name for name, _ in span.names]) for span in found]


def test_neighbours_share_the_page_between_them() -> None:
    """A page that two frozen tensors lie in is a span of its own, with both."""
    frozen = {"a": (10 * PAGE + 64, 12 * PAGE + 8), "b": (12 * PAGE + 8, 15 * PAGE)}
    assert cut(frozen) == [(10, 12, ["a"]), (12, 13, ["a", "b"]), (13, 15, ["b"])]


def test_a_page_with_something_else_in_it_stays_writable() -> None:
    """One byte of a tensor that trains is enough."""
    frozen = {"a": (10 * PAGE, 13 * PAGE + 4), "b": (15 * PAGE - 4, 16 * PAGE)}
    assert cut(frozen, [(13 * PAGE + 4, 15 * PAGE - 4)]) == [(10, 13, ["a"]), (15, 16, ["b"])]
    assert cut({"small": (20 * PAGE + 8, 20 * PAGE + 16)}, [(20 * PAGE + 16, 20 * PAGE + 24)]) == []


def test_memory_that_is_not_mapped_from_a_file_has_no_span() -> None:
    """Nor has a tensor that only begins in a file's mapping."""
    outside = {"a": (31 * PAGE, 32 * PAGE), "b": (29 * PAGE, 31 * PAGE), "c": (5 * PAGE, 6 * PAGE), "d": (0, 0)}
    assert cut(outside, [(0, 0)]) == []
    assert cut({"a": (40 * PAGE, 50 * PAGE)}) == [(40, 50, ["a"])]


def test_bytes_of_tensors_are_counted() -> None:
    """Those within the span, of each tensor."""
    span = PageSpan(2 * PAGE, 4 * PAGE, (("a", (PAGE, 2 * PAGE + 5)), ("b", (3 * PAGE, 3 * PAGE + 7))))
    assert span.frozen_bytes == 12


def test_safetensors_maps_its_file(tmp_path: Path) -> None:
    """Its tensors lie in a private mapping of the file, and a copy does not."""
    save_file({"weight": torch.ones(64, PAGE)}, tmp_path / "model.safetensors")
    loaded = load_file(tmp_path / "model.safetensors")["weight"]
    mapped = private_file_mappings()
    (span,) = spans([("weight", memory(loaded))], [], mapped)
    assert span.frozen_bytes == loaded.nbytes
    assert spans([("copy", memory(loaded.clone()))], [], mapped) == []
