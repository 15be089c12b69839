"""`python -m benchmarks NAME [--json]`: a line per figure, the machine first.

A benchmark is a module of this package with `figures() -> Iterable[Figure]`; a new file is found by its name.
"""

import argparse
import difflib
import signal
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.machine import machine


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end with the benchmark that started them
    arguments = parse(argv)
    known = names()
    chosen = known if arguments.names == ["all"] else arguments.names
    for name in chosen:
        if name not in known:
            print(unknown(name, known), file=sys.stderr)
            return 2
    show([machine()], as_json=arguments.json)
    for name in chosen:
        show(import_module(f"benchmarks.{name}").figures(), as_json=arguments.json)
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"all, or any of: {' '.join(names())}")
    parser.add_argument("--json", action="store_true", help="a JSON object per line")
    return parser.parse_args(argv)


def names() -> list[str]:
    """Modules that define `figures`; read as text, since importing one may load torch."""
    files = Path(__file__).parent.glob("[a-z]*.py")
    return sorted(file.stem for file in files if "\ndef figures(" in file.read_text(encoding="utf-8"))


def unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known)
    return f"no benchmark {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}")


def show(figures: Iterable[Figure], *, as_json: bool) -> None:
    for figure in figures:
        print(figure.as_json() if as_json else figure.as_text(), flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
