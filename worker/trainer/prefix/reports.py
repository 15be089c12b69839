"""Reports about the frozen prefix: an event for people, and `progress.prefix_cache` for programs."""

from __future__ import annotations

from typing import Literal

from worker.protocol import Reporter
from worker.trainer.prefix.cut import Cut

StoredIn = Literal["memory", "file"]


def off(reporter: Reporter, why: str) -> None:
    """No results are kept."""
    reporter.report("prefix_cache", in_use=False, reason=why)


def kept(
    reporter: Reporter,
    cut: Cut,
    *,
    examples: int,
    size: int,
    stored: StoredIn,
    quiet: bool,
    seconds: float,
    reused: int,
) -> None:
    """Results of all `examples` are stored, `reused` of them from an earlier attempt; `size` in bytes.

    `quiet`: dropout in the prefix is off because of it.
    """
    message = (
        f"prefix cache: {_calls(cut)} ({cut.share:.0%} of a forward pass) gave its results for {examples} examples "
        f"once, {size:,} bytes in {'a file' if stored == 'file' else 'memory'}, and is not computed again"
    )
    if quiet:
        message += "; dropout in it is off"
    modules, share = [call.path for call in cut.served], round(cut.share, 4)
    reporter.event(message, modules=modules, share=share, bytes=size, seconds=round(seconds, 3), reused=reused)
    reporter.report("prefix_cache", in_use=True, modules=modules, share=share, bytes=size, stored=stored)


def _calls(cut: Cut) -> str:
    paths = [call.path for call in cut.served]
    return paths[0] if len(paths) == 1 else f"{paths[0]} to {paths[-1]}"
