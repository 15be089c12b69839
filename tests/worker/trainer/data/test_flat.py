"""What is written once and read at any place."""

from __future__ import annotations

import errno
import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from app.evidence.format.examples import examples_root as examples_root_of
from app.specs.data import DataSpec
from tests.worker.trainer import tiny
from worker.trainer.data import examples_root, flat, language, reading, text
from worker.trainer.data.batch import Examples
from worker.trainer.data.examples_root import TrainedExamples
from worker.trainer.data.flat import Flat
from worker.trainer.data.sampler import Sampler


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("held", [0, 100, 1 << 20], ids=["file", "file with a rest", "memory"])
def test_elements_are_read_as_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int, scattered: bool
) -> None:
    """In memory or in a file; nobody can write them."""
    monkeypatch.setattr(flat, "HELD_BYTES", held)
    written = Flat(np.int32, tmp_path, scattered=scattered)
    for at in range(0, 300, 3):
        written.add(np.arange(at, at + 3, dtype=np.int32).tobytes())
    found = written.finished()
    assert found.dtype == np.int32
    assert found.tolist() == list(range(300))
    assert not found.flags.writeable


def test_files_have_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They end with the process, also one that is killed, and the folder has nothing to remove."""
    monkeypatch.setattr(flat, "HELD_BYTES", 0)
    written = Flat(np.uint8, tmp_path)
    written.add(b"abc")
    assert list(tmp_path.iterdir()) == []
    assert bytes(written.finished()) == b"abc"


def test_without_elements_or_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is an empty array; without a folder all of it stays in memory."""
    assert Flat(np.int64).finished().tolist() == []
    monkeypatch.setattr(flat, "HELD_BYTES", 0)
    written = Flat(np.uint8)
    written.add(b"abc")
    assert bytes(written.finished()) == b"abc"


def test_a_full_disk_is_said_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ENOSPC, of which a trainer makes the exit code for no room: while writing, and not later by a signal."""
    monkeypatch.setattr(flat, "HELD_BYTES", 0)
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr("tempfile.TemporaryFile", lambda **options: full)
        written = Flat(np.uint8, Path("/"))
        with pytest.raises(OSError) as refused:
            written.add(b"a" * 100_000)
    assert refused.value.errno == errno.ENOSPC


@pytest.mark.parametrize("task", ["text-classification", "causal-lm"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    """From reading to the recipe's root, ten times the file takes some numbers more for each example."""
    monkeypatch.setattr(flat, "HELD_BYTES", 1 << 12)
    monkeypatch.setattr(text, "CHUNK", 16)
    monkeypatch.setattr(examples_root, "_BLOCK", 16)
    tiny.tokenizer(tmp_path, ("<unk>", "<s>", "</s>"), bert_like=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.pad_token = tokenizer.eos_token
    few, many = 100, 1000
    peak(tmp_path, task, tokenizer, rows=16)  # what is imported and kept once
    grown = peak(tmp_path, task, tokenizer, rows=many) - peak(tmp_path, task, tokenizer, rows=few)
    assert grown / (many - few) < 100 < len(TEXT) / 4


TEXT = " ".join(tiny.WORDS) * 5


def peak(folder: Path, task: str, tokenizer: Any, *, rows: int) -> int:
    """The most bytes that Python and numpy had at a time for a file of so many rows; maps of files are in no count."""
    with (folder / "train.jsonl").open("w") as file:
        for at in range(rows):
            content = {"text": f"{at} {TEXT}"} | ({"label": f"{at % 2}"} if task == "text-classification" else {})
            file.write(json.dumps(content) + "\n")
    gc.collect()
    tracemalloc.start()
    source = reading.read(folder, DataSpec(training="train.jsonl"), task=task)
    examples: Examples
    if task == "causal-lm":
        examples = language.encode(source.training, tokenizer, limit=512, folder=folder).examples
    else:
        examples = text.encode_texts(source.training, tokenizer, limit=512, regression=False, folder=folder).examples
    sampler = Sampler(rows, 4, 1, examples.lengths)
    for step in range(1, 2 * sampler.steps_per_epoch):
        examples.batch(sampler.positions(step))
    trained = TrainedExamples(source.training, sampler, steps=step, labels=source.written, folder=folder)
    assert examples_root_of(trained.keys(), trained.steps_by_key()).count == rows
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most
