"""What watching costs: a classifier trained on MiniLM's encoder with and without the witness, and what each part takes.

Whole runs with and without take turns, so that a machine that slows down slows both.
"""

import hashlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import xxhash
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.figure import Figure
from worker.trainer.freeze.tensor_refs import tensor_refs
from worker.trainer.witness import Witness
from worker.trainer.witness.guard import WriteGuard
from worker.trainer.witness.multilinear import multilinear
from worker.trainer.witness.observe import observe, raw
from worker.trainer.witness.tripwires import Tripwire

FROZEN = ["bert.**"]
ROUNDS, STEPS, WARMUP = 4, 150, 3
BATCH, LENGTH = 16, 32


def figures() -> Iterable[Figure]:
    torch.manual_seed(0)
    yield from overhead()
    yield from parts()


def overhead() -> Iterable[Figure]:
    """The witness's own clock, and the time of whole runs with and without: the first look and the last are in it."""
    loop = Loop()
    nbytes = sum(parameter.nbytes for parameter in loop.model.bert.parameters())
    loop.steps(WARMUP)
    plain: list[float] = []
    watched: list[float] = []
    reports = []
    for turn in range(ROUNDS):
        for watching in (False, True) if turn % 2 else (True, False):
            if not watching:
                with timed(plain):
                    loop.steps(STEPS)
                continue
            with timed(watched), Witness(loop.model, freeze=FROZEN) as witness:
                loop.steps(STEPS, after=witness.step)
            reports.append(witness.report())
    spent, looks = sum(each.seconds for each in reports), statistics.fmean(each.checks for each in reports)
    yield Figure(
        "a step without a witness",
        1e3 * sum(plain) / (ROUNDS * STEPS),
        "ms",
        f"{nbytes / 1e6:.0f} MB frozen, batch {BATCH} x {LENGTH}",
    )
    yield Figure("witness overhead by its own clock", 100 * spent / sum(watched), "%", "at most 1, the default")
    yield Figure("witness overhead, with against without", 100 * (sum(watched) / sum(plain) - 1), "%", "at most 1")
    yield Figure(f"looks at all frozen bytes in {STEPS} steps", looks, "", reports[0].verdict)
    with WriteGuard({name: p.data for name, p in loop.model.bert.named_parameters()}, lambda name: False):
        guarded = loop.steps(8)
    guard = statistics.median(guarded) * ROUNDS * STEPS / sum(plain)
    yield Figure("a step under the write-guard", guard, "x", "1 without")


def parts() -> Iterable[Figure]:
    """The frozen bytes once over by each means, and one look at the tripwires."""
    model = classifier()
    tensors = [slot.tensor for slot in tensor_refs(model) if slot.tensor is not None]
    size = sum(tensor.nbytes for tensor in tensors) / 1e9
    copied = size / best(lambda: [tensor.clone() for tensor in tensors])
    xxh3 = size / best(lambda: [xxhash.xxh3_128_digest(raw(tensor)) for tensor in tensors])
    yield Figure("xxh3-128 over all tensors", xxh3, "GB/s", f"{copied:.1f} for copying them")
    digests = size / best(lambda: observe(model))
    one = size / best(lambda: [hashlib.sha256(raw(tensor)).digest() for tensor in tensors])
    yield Figure("SHA-256 of all tensors, a thread per core", digests, "GB/s", f"{one:.2f} by hashlib with one thread")
    words = torch.randint(0, 256, (1 << 24,), dtype=torch.uint8)
    rate = words.numel() / 1e9 / best(lambda: multilinear(words, bytes(16)))
    yield Figure("multilinear hash in plain torch, CPU", rate, "GB/s", "xxh3-128 is used there")
    wires = [Tripwire.on(slot) for slot in tensor_refs(model)]
    cost = best(lambda: [wire.tripped() for wire in wires]) / len(wires)
    yield Figure("tripwire, one tensor", 1e6 * cost, "µs", "1000 tensors: as many ms")


class Loop:
    """A frozen encoder under a trained head, fused AdamW."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = classifier()
        self.model.bert.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.classifier.parameters(), fused=True)
        self.ids = torch.randint(0, 1000, (BATCH, LENGTH))
        self.labels = torch.randint(0, 4, (BATCH,))

    def steps(self, count: int, after: Callable[[], object] = lambda: None) -> list[float]:
        """Seconds of each step, with what comes after it."""
        seconds: list[float] = []
        for _ in range(count):
            with timed(seconds):
                self.step()
                after()
        return seconds

    def step(self) -> None:
        self.model(input_ids=self.ids, labels=self.labels).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def classifier() -> BertForSequenceClassification:
    """MiniLM-L6's shape: 22.7 million parameters. Its values do not matter for time."""
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    return BertForSequenceClassification(BertConfig(num_labels=4, **sizes))


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    into.append(time.perf_counter() - began)


def best(work: Callable[[], object], runs: int = 5) -> float:
    """The fastest of a few runs, in seconds."""
    seconds: list[float] = []
    for _ in range(runs):
        with timed(seconds):
            work()
    return min(seconds)
