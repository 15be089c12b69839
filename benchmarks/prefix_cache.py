"""The frozen prefix computed once: default settings, beside the HF Trainer, a loop written by hand, and no cache.

Ours is timed from encoded data to the last step: looking for the prefix, filling, every step. The others' steps are
timed once they run and counted for as many. All are measured in turns, and the best of each counts.
`BENCHMARK_SCALE=4` takes a quarter of the texts, `BENCHMARK_RUNS=1` measures once; with
`BENCH_CLOCK=cpu` and one thread the process's own time is measured, as on a busy machine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.figure import Figure
from benchmarks.loops import CLOCK, HAND, HF, hand_written, hf_trainer
from benchmarks.work import MINILM, RATE, Case, bert_base, material, minilm_base, prepared, texts
from worker.trainer.data.sampler import sequential
from worker.trainer.prefix.row_inputs import RowInputs, at_a_time, rows_of, together
from worker.trainer.training import loop, prefix_cache
from worker.trainer.training.prefix_cache import PrefixCache

RUNS = int(os.environ.get("BENCHMARK_RUNS", "2"))
PEER_STEPS, BATCH = 20, 16
ON = {"prefix_cache": "auto", "frozen_dropout": False}
OFF = {"prefix_cache": False, "frozen_dropout": False}
PEERS = {HF: hf_trainer, HAND: hand_written}


@dataclass(frozen=True)
class Taken:
    """Seconds of a run with the prefix kept: in all, of filling and of training, and of the bare torch for both."""

    seconds: float
    filling: float
    training: float
    bare_filling: float
    bare_training: float


def figures() -> Iterable[Figure]:
    rows = max(4 * BATCH, 2_000 // max(1, int(os.environ.get("BENCHMARK_SCALE", "1"))))
    yield from head_only(case("MiniLM, head only", {"freeze": ["bert.**"]}, minilm_base, examples=rows, epochs=10))
    yield from over_no_cache(frozen("MiniLM", 4, 6, minilm_base, examples=rows // 8, epochs=10))
    for layers in (6, 9, 11):
        yield from over_no_cache(frozen("12-layer BERT", layers, 12, bert_base, examples=64, epochs=5))


def case(name: str, policy: dict[str, Any], base: Any, *, examples: int, epochs: int) -> Case:
    rows = lambda: texts(examples)  # noqa: E731 - as a case wants them
    wanted = ON | {"n_epochs": epochs}
    steps = epochs * -(-examples // BATCH)
    return Case(name, "text-classification", MINILM, policy, rows, base, BATCH, steps, wanted=wanted)


def frozen(name: str, layers: int, of: int, base: Any, *, examples: int, epochs: int) -> Case:
    names = ["bert.embeddings.**", *(f"bert.encoder.layer.{at}.**" for at in range(layers))]
    return case(f"{name}, {layers} of {of} layers frozen", {"freeze": names}, base, examples=examples, epochs=epochs)


def head_only(work: Case) -> Iterable[Figure]:
    """Whole runs over the peers' steps, and each of our two halves over the bare torch that it consists of."""
    taken: list[Taken] = []
    peers: dict[str, list[float]] = {name: [] for name in PEERS}
    for _ in range(RUNS):
        taken.append(ours(work, bare=True))
        for name in PEERS:
            peers[name].append(work.steps / peer(name, work))
    best = min(taken, key=lambda run: run.seconds)
    name = f"{work.name}, {work.steps:,} steps"
    yield Figure(f"{name}: kept", best.seconds, "s", f"{min(peers[HF]):.3g} by {HF}, {min(peers[HAND]):.3g} by hand")
    yield Figure(f"{name}: speed over {HF}", min(peers[HF]) / best.seconds, "x", "30, the aim at scale 1")
    yield Figure(f"{name}: speed over {HAND}", min(peers[HAND]) / best.seconds, "x", "25, the aim at scale 1")
    filling = min(run.bare_filling for run in taken) / min(run.filling for run in taken)
    training = min(run.bare_training for run in taken) / min(run.training for run in taken)
    yield Figure(f"{name}: filling over the same passes in bare torch", filling, "x", "0.8 and more")
    yield Figure(f"{name}: steps over a bare loop on kept features", training, "x", "0.8 and more")


def over_no_cache(work: Case) -> Iterable[Figure]:
    kept: list[float] = []
    live: list[float] = []
    for _ in range(RUNS):
        kept.append(ours(work).seconds)
        live.append(ours(replace(work, wanted=work.wanted | OFF)).seconds)
    name = f"{work.name}, {work.wanted['n_epochs']} epochs"
    yield Figure(f"{name}: kept", min(kept), "s", f"{min(live):.3g} without the cache")
    yield Figure(f"{name}: speed over no cache", min(live) / min(kept), "x", "1 without")


def ours(work: Case, *, bare: bool = False) -> Taken:
    with tempfile.TemporaryDirectory() as folder:
        with timed() as begun:
            run, stop = prepared(work, Path(folder))
        cache = run.passes.prefix
        assert (cache is not None) == (work.wanted["prefix_cache"] != OFF["prefix_cache"]), "kept where it should be"
        began = CLOCK()
        with stop, run.witness.witness, run.checkpoints.writer:
            loop.train(run)
        training = CLOCK() - began
        if cache is None:
            return Taken(training, 0.0, training, 0.0, 0.0)
        passes = bare_filling(run, cache) if bare else 0.0
        steps = bare_training(run, cache, work.steps) if bare else 0.0
        cache.close()
        return Taken(begun["begin"] + training, begun["fill"], training, passes, steps)


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """By this benchmark's clock, what beginning a prefix cache takes, and filling it, which is a part of that."""
    taken: dict[str, float] = {}

    def watched(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = CLOCK()
            try:
                return work(*arguments)
            finally:
                taken[name] = CLOCK() - began

        return call

    module = vars(prefix_cache)
    plain = {name: module[name] for name in ("begin", "fill")}
    module |= {name: watched(name, work) for name, work in plain.items()}
    try:
        yield taken
    finally:
        module |= plain


def bare_filling(run: loop.Run, cache: PrefixCache) -> float:
    """Seconds of the same batches through the bare model, when they lie ready."""
    examples, lengths = run.job.training, cache.results["training"].lengths
    like = examples.batch(np.arange(1))
    by_length: dict[int, list[RowInputs]] = {}
    for positions in sequential(len(examples), BATCH):
        batch = examples.batch(positions)
        for row in rows_of(batch, lengths, range(len(positions))):
            by_length.setdefault(row.length, []).append(row)
    batches = []
    for length, rows in by_length.items():
        size = at_a_time(length, most=BATCH, device=run.job.device)
        full = [rows[at : at + size] for at in range(0, len(rows), size)]
        batches += [together([*part, *[part[0]] * (size - len(part))], like) for part in full]

    encoder: Any = run.state.model.bert
    encoder.eval()
    began = CLOCK()
    with torch.no_grad():
        for batch in batches:
            encoder(**batch.inputs)
    return CLOCK() - began


def bare_training(run: loop.Run, cache: PrefixCache, steps: int) -> float:
    """Seconds of as many steps of a head by itself over the kept features, as one would write them."""
    results = cache.results["training"]
    (features,) = results.get(np.arange(results.count), 0)
    labels = run.job.training.batch(np.arange(results.count)).targets
    head = nn.Sequential(nn.Dropout(0.1), nn.Linear(features.shape[1], 4))
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    began = CLOCK()
    for step in range(steps):
        at = step * BATCH % len(labels)
        if at == 0:
            order = torch.randperm(len(labels))
        chosen = order[at : at + BATCH]
        loss = F.cross_entropy(head(features[chosen]), labels[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    return CLOCK() - began


def peer(name: str, work: Case) -> float:
    """Steps per second, once it runs."""
    few = replace(work, steps=PEER_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        go = PEERS[name](material(few, Path(folder)), few, Path(folder))
        return max(go(), go())
