"""`python -m tests.zoo`: tries every architecture and writes docs/architectures.md."""

from __future__ import annotations

import sys

from tests.zoo.table import PATH, everything, render, run, score


def main() -> None:
    results = dict(run(everything(), jobs=2))
    PATH.write_text(render(results), "utf-8")
    print(score(results))
    for entry, outcome in results.items():
        for policy, each in outcome.items():
            if each.status == "other":
                print(f"{entry.task} {entry.kind} {policy}: {each.reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
