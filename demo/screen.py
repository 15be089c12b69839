"""What the demo shows: titles, bars that follow jobs, and the list of what had to hold."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.text import Text

from demo.service import Service, ServiceError

console = Console(highlight=False, width=None if Console().is_terminal else 110)
ENDED = {"succeeded", "failed", "cancelled"}
COLOURS = {"verified": "green", "violated": "red", "succeeded": "green", "failed": "red", "running": "cyan"}
#: A minute at most on a quiet machine; a busy one gets its time.
JOB_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that had to hold, in words."""

    text: str
    held: bool


def title() -> None:
    lines = Text("Permafrost", style="bold")
    lines.append("  Fine-tuning jobs over HTTP, with signed evidence\n", style="not bold")
    lines.append("            that the frozen weights did not change by a bit.", style="not bold")
    console.print(Panel(lines, border_style="blue", expand=False, padding=(0, 2)))


def part(letter: str, heading: str, note: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{letter}[/]  {heading}", style="blue", align="left"))
    console.print(f"[dim]{note}[/]\n")


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A line that says what is being waited for, and afterwards how long it took."""
    began = time.monotonic()
    with console.status(text):
        yield
    console.print(f"  [green]✓[/] {text} [dim]{time.monotonic() - began:.1f} s[/]")


def follow(service: Service, jobs: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Draws a bar for each job (label -> id) until all have ended; returns them by label, or raises if one failed."""
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bars = {label: progress.add_task(label, total=1, status="") for label in jobs}
        return _until_ended(service, jobs, progress, bars)


def verdict(text: str) -> str:
    return f"[{COLOURS.get(text, 'yellow')}]{text}[/]"


def summary(checks: list[Check]) -> None:
    console.print()
    console.print(Rule("[bold]What had to hold[/]", style="blue", align="left"))
    for check in checks:
        console.print(f"  [green]✓[/] {check.text}" if check.held else f"  [red]✗ {check.text}[/]")


def _until_ended(
    service: Service, jobs: Mapping[str, str], progress: Progress, bars: Mapping[str, TaskID]
) -> dict[str, dict[str, Any]]:
    ended: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + JOB_SECONDS
    while len(ended) < len(jobs):
        for label, job_id in jobs.items():
            if label in ended:
                continue
            job = service.get(f"/v1/fine_tuning/jobs/{job_id}")
            _draw(progress, bars[label], job)
            if job["status"] in ENDED:
                ended[label] = job
        if time.monotonic() > deadline:
            raise ServiceError(f"not ended after {JOB_SECONDS} s: {', '.join(sorted(set(jobs) - set(ended)))}")
        time.sleep(0.1)
    for label, job in ended.items():
        if job["status"] != "succeeded":
            raise ServiceError(f"the job {label!r} ({job['id']}) {job['status']}: {job['error']}")
    return ended


def _draw(progress: Progress, bar: TaskID, job: dict[str, Any]) -> None:
    at = job["progress"]
    step, total = at.get("step") or 0, at.get("total_steps")
    steps = f"[dim]step {step}/{total}[/]" if total else ""
    done = total if job["status"] == "succeeded" and total else step
    progress.update(bar, completed=done, total=total or 1, status=f"{verdict(job['status'])} {steps}".strip())
