"""What the verifier accepts, loaders load: for every frozen tensor exactly the bytes that were proved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.depth import DEPTH
from tests.loading import adapters, folders
from tests.loading.takes import taken
from tests.patience import PATIENCE
from tools import peers

pytest.importorskip("transformers", reason="the worker's dependencies are not installed")

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's

Taker = Callable[[dict[str, Any]], dict[str, str]]
CHOICES = st.lists(st.tuples(st.integers(0, len(folders.CHANGES) - 1), st.integers(0, 5_000)), max_size=3)
OVERLAYS = st.lists(st.tuples(st.integers(0, len(adapters.CHANGES) - 1), st.integers(0, 5_000)), max_size=2)


class Refused(Exception):
    """The loader takes nothing from the folder."""


def quietly(request: dict[str, Any]) -> dict[str, str]:
    """What the installed loaders take. Raises Refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return taken(request)
        except Exception as error:
            raise Refused(str(error)) from error


@cache
def source(kind: str) -> Path:
    """The base of one of MODELS, made once."""
    folder = Path(tempfile.mkdtemp(prefix="loading-"))
    folders.MODELS[kind].make(folder)
    return folder


@cache
def adapter_source() -> Path:
    return adapters.make(Path(tempfile.mkdtemp(prefix="loading-")))


def loads_what_was_proved(folder: folders.Folder, take: Taker) -> str:
    """ "rejected" by the verifier, "refused" by the loaders, or "loaded". Fails where a loader took other bytes."""
    report = folder.verified()
    if not report.verified:
        assert all(problem.reason for problem in report.problems)
        return "rejected"
    expected, outcome = folder.expected(), "refused"
    parts: dict[str, list[list[int]]] = {}
    for name in expected:
        live, _, rows = name.partition("@")
        if rows:
            parts.setdefault(live, []).append([int(bound) for bound in rows.split("-")])
    for auto in (folder.model.result_class, folder.model.base_class):
        short = "bert." if folder.model.prefix else "model."
        strip = short if auto == folder.model.base_class else ""
        request: dict[str, Any] = {"class": auto, "folder": str(folder.result)}
        request["parts"] = {name.removeprefix(strip): ranges for name, ranges in parts.items()}
        try:
            found = take(request)
        except Refused:
            continue
        outcome = "loaded"
        for name, sha256 in expected.items():
            own = name.removeprefix(strip)
            assert strip or own in found, f"{auto} does not load {own}"
            assert found.get(own, sha256) == sha256, f"{auto} loads other bytes into {own} than were proved"
    return outcome


def run_folders(kind: str, take: Taker, *, examples: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=examples)
    @given(choices=CHOICES)
    def run(choices: list[tuple[int, int]]) -> None:
        with tempfile.TemporaryDirectory() as root:
            folder = folders.Folder(Path(root), folders.MODELS[kind], source(kind))
            for which, number in choices:
                folders.CHANGES[which](folder, number)
            folder.write()
            outcomes[loads_what_was_proved(folder, take)] += 1

    run()
    return outcomes


def run_adapters(take: Taker, *, examples: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=examples)
    @given(choices=OVERLAYS)
    def run(choices: list[tuple[int, int]]) -> None:
        with tempfile.TemporaryDirectory() as root:
            adapter = adapters.Adapter(Path(root), adapter_source())
            for which, number in choices:
                adapters.CHANGES[which](adapter, number)
            report = adapter.verified()
            if not report.verified:
                outcomes["rejected"] += 1
                return
            request = {"class": "AutoModelForCausalLM", "base": str(adapter.base), "folder": str(adapter.result)}
            try:
                found = take(request)
            except Refused:
                outcomes["refused"] += 1
                return
            outcomes["loaded"] += 1
            for name, sha256 in adapter.expected().items():
                own = next(each for each in _places_in_use(name) if each in found)
                assert found[own] == sha256, f"peft loads other bytes into {own} than were proved"

    run()
    return outcomes


def _places_in_use(name: str) -> Iterator[str]:
    """Where a frozen tensor may be in the wrapped model, the copy that it computes with before the original."""
    parts = name.split(".")
    for copy in ("modules_to_save.default", "original_module"):
        yield from (".".join([*parts[:at], copy, *parts[at:]]) for at in range(3, len(parts)))
    yield name
    yield name.replace(".base_layer", "")


@pytest.mark.parametrize("kind", folders.MODELS)
def test_accepted_folders_load_what_was_proved(kind: str) -> None:
    outcomes = run_folders(kind, quietly, examples=25)
    assert outcomes["loaded"] >= 3, outcomes
    assert outcomes["rejected"] >= 3, outcomes


def test_accepted_adapters_leave_the_base_as_it_was_proved() -> None:
    outcomes = run_adapters(quietly, examples=20)
    assert outcomes["loaded"] >= 3, outcomes
    assert outcomes["rejected"] >= 3, outcomes


@pytest.mark.parametrize(
    ("lie", "config"),
    [
        (False, {"layer_types": ["conv", "full_attention"]}),
        (True, {"layer_types": ["full_attention", "full_attention"]}),
        (True, {"layer_types": ["conv", "conv"]}),
        (True, {"full_attn_idxs": None}),
    ],
    ids=["what the class makes", "attention", "convolutions", "another key"],
)
def test_a_list_that_the_base_lacks_says_what_is_loaded(lie: bool, config: dict[str, Any], tmp_path: Path) -> None:
    """A class takes the kinds of its layers from other keys; with others, it leaves what was proved in the file."""
    folder = folders.Folder(tmp_path, folders.MODELS["hybrid"], source("hybrid"))
    folder.config |= config
    folder.write()
    assert loads_what_was_proved(folder, quietly) == ("rejected" if lie else "loaded")
    expected = folder.expected()
    found = quietly({"class": folder.model.result_class, "folder": str(folder.result)})
    assert any(found.get(name) != sha256 for name, sha256 in expected.items()) is lie


@pytest.mark.slow
@pytest.mark.parametrize("kind", folders.MODELS)
def test_many_accepted_folders_load_what_was_proved(kind: str) -> None:
    outcomes = run_folders(kind, quietly, examples=int(150 * DEPTH))
    assert outcomes["loaded"] >= int(15 * DEPTH), outcomes


@pytest.mark.slow
def test_many_accepted_adapters_leave_the_base_as_it_was_proved() -> None:
    outcomes = run_adapters(quietly, examples=int(60 * DEPTH))
    assert outcomes["loaded"] >= int(6 * DEPTH), outcomes


class Release:
    """Loaders of another release, in a process of their own."""

    def __init__(self, name: str) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{peers.packages(name)}{os.pathsep}{Path.cwd()}"}
        command = [sys.executable, "-m", "tests.loading.takes"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def __call__(self, request: dict[str, Any]) -> dict[str, str]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "refused" in answer:
            raise Refused(answer["refused"])
        digests: dict[str, str] = answer["digests"]
        return digests

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE)  # the end of its input ends it


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "llama", "llama, tied"])
@pytest.mark.parametrize(
    "name", ["transformers-4.41.2", "transformers-4.46.3", "transformers-4.51.3", "transformers-4.57.6"]
)
def test_older_releases_load_what_was_proved(name: str, kind: str) -> None:
    release = Release(name)
    try:
        outcomes = run_folders(kind, release, examples=int(40 * DEPTH))
    finally:
        release.close()
    assert outcomes["loaded"] >= int(4 * DEPTH), outcomes
