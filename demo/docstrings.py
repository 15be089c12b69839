"""Real text that every machine with Python has: docstrings of the standard library, labelled by their package."""

import ast
import json
import random
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Enough for 2,000 to train on beside the held-out part.
WANTED = 2_500
HELD_OUT = 0.2
MOST_CHARACTERS = 160
FEWEST_WORDS = 5
#: Not part of the library that people import, or not written by its authors.
LEFT_OUT = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}


@dataclass(frozen=True, slots=True)
class Corpus:
    labels: list[str]
    training: list[tuple[str, str]]
    held_out: list[tuple[str, str]]

    @property
    def majority(self) -> float:
        """Held-out accuracy of always answering the most frequent label of the training part."""
        label = Counter(label for _, label in self.training).most_common(1)[0][0]
        return sum(each == label for _, each in self.held_out) / len(self.held_out)


def collect(*, seed: int = 0, longest: int = MOST_CHARACTERS) -> Corpus:
    """The packages with most docstrings, until there are enough; a text that stands in two packages is left out.

    Texts are cut to `longest` characters.
    """
    found = by_package(Path(sysconfig.get_paths()["stdlib"]), longest=longest)
    labels: list[str] = []
    for label in sorted(found, key=lambda name: (-len(found[name]), name)):
        if sum(len(found[name]) for name in labels) >= WANTED:
            break
        labels.append(label)
    homes = Counter(text for label in labels for text in found[label])
    examples = [(text, label) for label in labels for text in sorted(found[label]) if homes[text] == 1]
    random.Random(seed).shuffle(examples)
    cut = int(len(examples) * HELD_OUT)
    return Corpus(labels, training=examples[cut:], held_out=examples[:cut])


def as_lines(examples: list[tuple[str, str]]) -> bytes:
    return b"".join(json.dumps({"text": text, "label": label}).encode() + b"\n" for text, label in examples)


def by_package(library: Path, *, longest: int = MOST_CHARACTERS) -> dict[str, set[str]]:
    """Distinct docstrings, whitespace evened out and cut to a length, of each package of the library."""
    found: dict[str, set[str]] = {}
    for package in sorted(library.iterdir()):
        if package.is_dir() and (package / "__init__.py").exists() and package.name not in LEFT_OUT:
            files = (file for file in package.rglob("*.py") if not LEFT_OUT & set(file.relative_to(library).parts))
            found[package.name] = {text for file in files for text in docstrings(file, longest=longest)}
    return found


def docstrings(file: Path, *, longest: int = MOST_CHARACTERS) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            words = (ast.get_docstring(node) or "").split()
            if len(words) >= FEWEST_WORDS:
                yield " ".join(words)[:longest]
