"""What a job is told of its frozen prefix: an event for people, and a report that becomes part of its progress."""

from __future__ import annotations

from typing import Literal

from worker.protocol import Reporter
from worker.trainer.prefix.cut import Cut

Place = Literal["memory", "file"]


def off(reporter: Reporter, why: str) -> None:
    """Nothing is kept."""
    reporter.report("prefix_cache", in_use=False, reason=why)


def kept(
    reporter: Reporter,
    cut: Cut,
    *,
    examples: int,
    size: int,
    where: Place,
    quiet: bool,
    seconds: float,
    reused: int,
) -> None:
    """`quiet`: dropout in the prefix was turned off for it. `reused` examples an earlier attempt had computed."""
    message = (
        f"prefix cache: {_calls(cut)} ({cut.share:.0%} of a forward pass) gave its results for {examples} examples "
        f"once, {size:,} bytes in {'a file' if where == 'file' else 'memory'}, and is not computed again"
    )
    if quiet:
        message += "; dropout in it is off"
    modules, share = [call.path for call in cut.served], round(cut.share, 4)
    reporter.event(message, modules=modules, share=share, bytes=size, seconds=round(seconds, 3), reused=reused)
    reporter.report("prefix_cache", in_use=True, modules=modules, share=share, bytes=size, stored=where)


def _calls(cut: Cut) -> str:
    paths = [call.path for call in cut.served]
    return paths[0] if len(paths) == 1 else f"{paths[0]} to {paths[-1]}"
