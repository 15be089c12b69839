"""The table of architectures in the documentation, from the outcomes of all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import transformers

from tests.zoo.bases import MAPPINGS, Entry, entries
from tests.zoo.runs import POLICIES, Outcome, outcomes, policies_of

PATH = Path(__file__).parents[2] / "docs" / "architectures.md"
ABOUT = """\
# Architectures

Every architecture that transformers {version} maps to a task that a job can have, tried tiny: two steps on the CPU, the
evidence judged, and the result loaded again. `python -m tests.zoo` tries all of them and writes this page; a slow test
does it again.

- `head`: all of the base is frozen, a new head or the output embeddings train. `half`: the first half of the base's
  parameters is frozen. `lora`: an adapter over the frozen base.
- Popular architectures and those of pictures are tried under all three, the others with half of the base frozen. A
  missing row: transformers makes no model of the tiny configuration ({untried}).
- ✓: verified, and a verifier with base and result at hand accepts it. A number: refused before the first step, for the
  reason below.

Score: {score}."""
Results = Mapping[Entry, Mapping[str, Outcome]]
Tried = dict[Entry, tuple[str, ...]]


def run(tried: Tried, *, jobs: int) -> Iterator[tuple[Entry, dict[str, Outcome]]]:
    """The outcomes of these policies of each architecture, each from one of `jobs` processes."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from zip(tried, pool.map(outcomes, tried, tried.values()), strict=True)


def everything() -> Tried:
    """Every architecture of transformers, under the policies that it is tried with."""
    return {entry: policies_of(entry) for entry in entries()}


def score(results: Results) -> str:
    """How many runs were verified, how many refused by name, and how many ended otherwise: the last must be 0."""
    counts = Counter(outcome.status for each in results.values() for outcome in each.values())
    return f"{counts['verified']} verified, {counts['refused']} refused by name, {counts['other']} anything else"


def render(results: Results) -> str:
    """The page with these results."""
    untried = ", ".join(f"{entry.kind}" for entry, found in sorted(results.items()) if not _tried(found)) or "none"
    parts = [ABOUT.format(version=transformers.__version__, score=score(results), untried=untried)]
    reasons: dict[str, int] = {}
    for task in MAPPINGS:
        mine = {entry: outcome for entry, outcome in results.items() if entry.task == task and _tried(outcome)}
        verified = sum(all(each.status == "verified" for each in outcome.values()) for outcome in mine.values())
        parts += [
            "",
            f"## {task}",
            "",
            f"{verified} of {len(mine)} architectures are verified under all that is tried.",
        ]
        parts += ["", f"| `model_type` | {' | '.join(POLICIES)} |", f"|---|{'---|' * len(POLICIES)}"]
        parts += [_row(entry, outcome, reasons) for entry, outcome in sorted(mine.items())]
    parts += ["", "## Reasons", ""]
    parts += [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join(parts) + "\n"


def _tried(found: Mapping[str, Outcome]) -> bool:
    return any(outcome.status != "untried" for outcome in found.values())


def _row(entry: Entry, found: Mapping[str, Outcome], reasons: dict[str, int]) -> str:
    cells = [_cell(found.get(policy), reasons) for policy in POLICIES]
    return f"| {entry.kind} | {' | '.join(cells)} |"


def _cell(outcome: Outcome | None, reasons: dict[str, int]) -> str:
    if outcome is None or outcome.status == "untried":
        return ""
    if outcome.status == "verified":
        return "✓"
    reason = _shortened(outcome.reason)
    return str(reasons.setdefault(reason, len(reasons) + 1)) + ("" if outcome.status == "refused" else " **!**")


def _shortened(reason: str) -> str:
    """The reason without numbers, names of tensors and what follows the first clause: one for all that are alike."""
    code, _, message = reason.partition(": ")
    message = re.split(r"\n|;|\(", message)[0]
    message = re.sub(r"(?<!\w)'[^']*'", "'…'", re.sub(r"\d+", "N", message))
    return f"`{code}`: {message.strip()[:160]}" if message else code
