"""The frozen prefix computed once: whole jobs of five epochs with and without, beside the HF Trainer on the same work.

With means `prefix_cache: true`, dropout in the frozen layers off. Times are from loaded model and encoded data to the
last step, filling the cache included; the least of two runs each, which alternate.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure
from benchmarks.loops import HF, hf_trainer
from benchmarks.work import MINILM, Case, bert_base, material, minilm_base, prepared, texts
from worker.trainer.training import loop

EPOCHS, RUNS = 5, 2
ON, OFF = {"prefix_cache": True}, {"prefix_cache": False}


def figures() -> Iterable[Figure]:
    head = case("MiniLM, head only", {"freeze": ["bert.**"]}, minilm_base, examples=256)
    yield from compared(head, with_trainer=True)
    for layers in (6, 9, 11):
        frozen = ["bert.embeddings.**", *(f"bert.encoder.layer.{at}.**" for at in range(layers))]
        name = f"12-layer BERT, {layers} layers frozen"
        yield from compared(case(name, {"freeze": frozen}, bert_base, examples=64), with_trainer=False)


def case(name: str, policy: dict[str, Any], base: Any, *, examples: int) -> Case:
    batch = 16
    steps = EPOCHS * examples // batch
    return Case(name, "text-classification", MINILM, policy, lambda: texts(examples), base, batch, steps)


def compared(case: Case, *, with_trainer: bool) -> Iterable[Figure]:
    """Seconds with the prefix kept, and how many times as long the others take."""
    names = ["with", "without", *([HF] if with_trainer else [])]
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(RUNS):
        found["with"].append(ours(replace(case, wanted=ON)))
        found["without"].append(ours(replace(case, wanted=OFF)))
        if with_trainer:
            found[HF].append(trainer(case))
    seconds = {name: min(each) for name, each in found.items()}
    yield Figure(f"{case.name}: {EPOCHS} epochs", seconds["with"], "s", f"{seconds['without']:.3g} without the cache")
    yield Figure(f"{case.name}: speed over no cache", seconds["without"] / seconds["with"], "x", "1 without")
    if with_trainer:
        yield Figure(f"{case.name}: speed over {HF}", seconds[HF] / seconds["with"], "x", "11 by hand, once measured")


def ours(case: Case) -> float:
    with tempfile.TemporaryDirectory() as folder:
        given = replace(case, wanted=case.wanted | {"n_epochs": EPOCHS})
        run, stop = prepared(given, Path(folder))
        began = time.perf_counter()
        with stop, run.witness.witness, run.checkpoints.writer:
            loop.train(run)
        seconds = time.perf_counter() - began
        cache = run.passes.prefix
        if cache is None:
            assert case.wanted != ON, "the prefix was to be kept"
            return seconds
        cache.close()
        return seconds + cache.seconds


def trainer(case: Case) -> float:
    """Its own clock, from the first step's begin to the last one's end."""
    with tempfile.TemporaryDirectory() as folder:
        return case.steps / hf_trainer(material(case, Path(folder)), case, Path(folder))()
