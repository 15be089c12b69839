"""The tree that a trainer makes of its examples."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.evidence.format.examples import examples_root as examples_root_of
from worker.trainer.data import examples_root
from worker.trainer.data.examples_root import TrainedExamples, as_written, example_tree, number_lists
from worker.trainer.data.sampler import Sampler
from worker.trainer.data.table import Table

ROWS = [{"text": name, "label": at % 2} for at, name in enumerate("abcdea")]


def test_steps_are_those_of_the_sampler() -> None:
    """Every example once an epoch; the one that is there twice has the steps of both, of labels that are the same."""
    sampler = Sampler(len(ROWS), 2, seed=5)
    tree = example_tree(ROWS, sampler, steps=6, labels=("no", "yes"))
    assert len(tree.keys) == 6  # the label of the second "a" is another
    for step in range(1, 7):
        assert sum(step in steps for steps in tree.steps) == len(sampler.positions(step))
    same = [{"text": "a", "label": 0}] * 2
    assert sorted(example_tree(same, Sampler(2, 1, seed=1), steps=4, labels=("no",)).steps) == [(1, 2, 3, 4)]


@pytest.mark.parametrize("steps", [0, 1, 5, 8])
def test_the_root_is_that_of_the_tree(tmp_path: Path, steps: int) -> None:
    """Without the tree in memory; also of examples that repeat, in an epoch that has not ended, and before any step."""
    sampler = Sampler(len(ROWS), 2, seed=5)
    rows = [row | {"label": 0} for row in ROWS]
    trained = TrainedExamples(rows, sampler, steps=steps, labels=("no",), folder=tmp_path)
    tree = example_tree(rows, sampler, steps=steps, labels=("no",))
    assert examples_root_of(trained.keys(), trained.steps_by_key()) == tree.root()
    assert list(trained.keys()) == list(tree.keys)
    assert len(tree.keys) == 5


def test_keys_are_in_order_to_their_last_byte() -> None:
    """Also those that begin alike, which nobody will see."""
    keys = np.random.default_rng(1).integers(0, 256, (200, 32), dtype=np.uint8)
    keys[::2, :8] = keys[0, :8]
    keys[::4, :30] = keys[0, :30]
    in_order = [each.tobytes() for each in keys[examples_root._order(keys)]]
    assert in_order == sorted(each.tobytes() for each in keys)


def test_labels_are_as_the_file_has_them() -> None:
    """Of a class, of words, of a table; numbers of a regression stay what they are."""
    assert as_written({"text": "a", "label": 1}, ("no", "yes"))["label"] == "yes"
    assert as_written({"tokens": ["a"], "labels": [1, 0]}, ("O", "B"))["labels"] == ["B", "O"]
    assert as_written({"x": [1.0], "y": 0}, ("no", "yes"))["y"] == "no"
    assert as_written({"x": [1.0], "y": [0.5]}, None) == {"x": [1.0], "y": [0.5]}


@pytest.mark.parametrize("labels", [None, ("n\u00e9", 'o"')], ids=["numbers", "labels"])
def test_a_matrix_has_the_root_of_its_rows(labels: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever writes the numbers of a block at once, the keys are those of the rows one by one."""
    monkeypatch.setattr(examples_root, "_FEW", 0)
    numbers = np.random.default_rng(1).normal(size=(9_000, 3)) * 10.0 ** np.arange(-4, 5, 4)
    numbers[::7], numbers[5] = numbers[::7].round(), -0.0
    rows = [{"x": x, "y": x[:1] if labels is None else at % 2} for at, x in enumerate(numbers.tolist())]
    sampler = Sampler(len(rows), 64, seed=5)
    one_by_one, at_once = (example_tree(each, sampler, steps=30, labels=labels) for each in (rows, Table.of(rows)))
    assert at_once.root() == one_by_one.root()


def test_a_small_table_needs_no_pyarrow() -> None:
    """Importing it takes longer than a small job trains."""
    code = (
        "import sys\n"
        "from worker.trainer.data.examples_root import example_tree\n"
        "from worker.trainer.data.sampler import Sampler\n"
        "from worker.trainer.data.table import Table\n"
        "rows = Table.of([{'x': [0.5], 'y': [1.0]}] * 100)\n"
        "example_tree(rows, Sampler(100, 10, seed=1), steps=10, labels=None)\n"
        "assert 'pyarrow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_numbers_are_written_as_python_writes_them(numbers: list[float]) -> None:
    """Shortest digits, an exponent from 1e16 and below 1e-4, and `.0` after a whole number."""
    assert number_lists(np.array([numbers])) == [json.dumps(numbers, separators=(",", ":"))[1:-1]]
    assert number_lists(np.array(numbers)[:, None]) == list(map(repr, numbers))
