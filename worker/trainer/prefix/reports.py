"""Reports about the frozen prefix: an event for people, and `progress.prefix_cache` for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.jsontypes import JsonDict
from worker.protocol import Reporter
from worker.trainer.prefix.cut import Cut

StoredIn = Literal["memory", "file"]


def off(reporter: Reporter, why: str) -> None:
    """No results are kept."""
    reporter.report("prefix_cache", in_use=False, reason=why)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptReport:
    """Results of all `examples` are stored, `reused` of them from an earlier attempt; `size` in bytes.

    `quiet`: dropout in the prefix is off because of it. `gain`: how many times as fast the run is, where measured.
    """

    cut: Cut
    examples: int
    size: int
    stored: StoredIn
    quiet: bool
    seconds: float
    reused: int
    gain: float | None

    def send(self, reporter: Reporter) -> None:
        modules, share = [call.path for call in self.cut.served], round(self.cut.share, 4)
        gain = round(self.gain, 2) if self.gain is not None else None
        figures: JsonDict = {
            "modules": modules,
            "share": share,
            "bytes": self.size,
            "reused": self.reused,
            "gain": gain,
        }
        reporter.event(self._message(modules), **figures, seconds=round(self.seconds, 3))
        reporter.report("prefix_cache", in_use=True, stored=self.stored, **figures)

    def _message(self, modules: list[str]) -> str:
        parts = [
            f"prefix cache: kept: {condensed(modules)}, {self.cut.share:.0%} of a forward pass",
            f"{self.examples:,} examples, {self.size:,} bytes in {'a file' if self.stored == 'file' else 'memory'}",
        ]
        if self.gain is not None:
            parts.insert(1, in_words(self.gain))
        if self.reused:
            parts.append(f"{self.reused:,} of the examples were computed before")
        if self.quiet:
            parts.append("dropout in it is off")
        return "; ".join(parts)


def in_words(gain: float) -> str:
    if gain < 1.05:
        return "no faster in this run"
    return f"about {gain:.0f} times as fast" if gain >= 9.5 else f"about {gain:.1f} times as fast"


def condensed(paths: list[str]) -> str:
    """The paths with runs of numbered ones in short: `encoder.layer.0` to `encoder.layer.5` as `encoder.layer.0-5`."""
    runs: list[tuple[str, int | None, int | None]] = []
    for path in dict.fromkeys(paths):
        head, _, last = path.rpartition(".")
        number = int(last) if last.isdecimal() else None
        if number is not None and runs and runs[-1][0] == head and runs[-1][2] == number - 1:
            runs[-1] = (head, runs[-1][1], number)
        else:
            runs.append((head if number is not None else path, number, number))
    return ", ".join(_run(*run) for run in runs)


def _run(head: str, first: int | None, last: int | None) -> str:
    if first is None:
        return head
    numbers = str(first) if first == last else f"{first}-{last}"
    return f"{head}.{numbers}" if head else numbers
