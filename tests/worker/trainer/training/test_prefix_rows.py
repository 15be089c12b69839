"""Kept results across jobs: what one job left serves the next, and both end with the same bits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.worker.trainer.attempts import Attempt, attempt
from tests.worker.trainer.training.test_checkpoints import assert_same
from tests.worker.trainer.training.test_prefix_cache import (
    FIXED,
    convnet,
    decoder,
    encoder,
    head_only,
    in_use,
    pairs,
    preference,
    run,
    said,
)
from worker.protocol import WorkOrder
from worker.trainer.prefix.serving import Prefix
from worker.trainer.training import prefix_address, prefix_filling

Order = Callable[..., WorkOrder]


class Jobs:
    """Jobs of one project on one worker, each in a workspace of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "shared"
        self.folder.mkdir()

    def run(self, order: Order, name: str, *, room: int = 1 << 30, shared: bool = True, **wanted: Any) -> Attempt:
        work = order(self.root / name, frozen_dropout=False, **wanted)
        if shared:
            (self.root / name / "prefix-cache").symlink_to(self.folder)
            work = WorkOrder.from_json(work.to_json() | {"prefix_room": room})
        done = attempt(work, self.root / name)
        assert done.code == 0, done.failure
        assert in_use(done), said(done)
        return done

    def files(self, suffix: str) -> list[Path]:
        return sorted(self.folder.glob(f"*/*.{suffix}"))


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


def reused(done: Attempt) -> int:
    count: int = done.of("prefix_cache")[-1]["reused"]
    return count


def warnings(done: Attempt) -> list[str]:
    warned = [event["message"] for event in done.of("event") if event["level"] == "warn"]
    return [message for message in warned if "result" in message]


def curves(done: Attempt) -> str:
    return (done.place.files / "metrics.jsonl").read_text()


RAGGED = {"ragged": True}


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        (encoder, RAGGED | {"dropout": True}),
        (head_only, RAGGED | {"dropout": True}),
        (decoder, RAGGED),
        (pairs, {}),
        (preference, {}),
        (convnet, {}),
    ],
    ids=["encoder", "head_only", "decoder", "pairs", "preference", "convnet"],
)
def test_the_same_bits_as_a_job_that_fills(jobs: Jobs, order: Order, wanted: dict[str, Any]) -> None:
    """A second job takes every row from the first, a third has nothing to take: each loss and weight is equal."""
    first = jobs.run(order, "first", **wanted)
    second = jobs.run(order, "second", **wanted)
    alone = jobs.run(order, "alone", shared=False, **wanted)
    examples = len((first.place.data / "train.jsonl").read_text().splitlines())
    assert (reused(first), reused(second), reused(alone)) == (0, examples, 0)
    assert_same(first, second)
    assert_same(first, alone)
    assert curves(first) == curves(second) == curves(alone)
    assert not any(map(warnings, (first, second)))


def test_another_job_starts_with_what_is_there(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another learning rate, more epochs, a smaller head, validation examples held out, ten more examples."""
    first = jobs.run(head_only, "first", ragged=True)
    rate = jobs.run(head_only, "rate", ragged=True, learning_rate=0.1)
    longer = jobs.run(head_only, "longer", ragged=True, n_epochs=5, validation_fraction=0.2)
    assert [reused(done) for done in (first, rate, longer)] == [0, 40, 40]
    assert any(not torch.equal(first.changed[name], rate.changed[name]) for name in first.changed)

    def relabelled(root: Path, *, more: bool = True, **wanted: Any) -> WorkOrder:
        work = head_only(root, **wanted)
        lines = (root / "data" / "train.jsonl").read_text().splitlines()
        added = [f'{{"text": "{"red " * at}", "label": "l3"}}' for at in range(8, 18)]
        (root / "data" / "train.jsonl").write_text("\n".join([*lines, *added]) + "\n")
        return work

    more = jobs.run(relabelled, "more", ragged=True)  # with a fourth label, which is another head
    alone = jobs.run(relabelled, "alone", ragged=True, shared=False)
    assert (reused(more), reused(alone)) == (40, 0)
    assert_same(more, alone)


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("fault", ["damaged", "cut", "foreign", "gone", "no folder", "no room", "pipe"])
def test_a_folder_with_faults(jobs: Jobs, fault: str) -> None:
    """Each trains as without, to the bit, and says so once at most."""
    alone = jobs.run(head_only, "alone", ragged=True, shared=False)
    room = 100 if fault == "no room" else 1 << 30
    if fault not in ("no folder", "no room"):
        jobs.run(head_only, "first", ragged=True)
        (rows,), (index,) = jobs.files("rows"), jobs.files("index")
    if fault == "damaged":
        damage(rows, 5)
        damage(rows, 1000)
    elif fault == "cut":
        rows.write_bytes(rows.read_bytes()[:-100])
    elif fault == "foreign":
        rows.rename(rows.with_name("moved"))
        rows.with_name(rows.name).write_bytes(bytes(5000))
    elif fault == "gone":
        rows.unlink()
    elif fault == "pipe":
        index.unlink()
        os.mkfifo(index)
    elif fault == "no folder":
        jobs.folder.rmdir()

    done = jobs.run(head_only, "done", ragged=True, room=room)
    assert_same(alone, done)
    assert len(warnings(done)) == 1, warnings(done)
    assert reused(done) < 40


def test_two_versions_of_transformers_over_one_folder(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither takes what the other left."""
    jobs.run(head_only, "first", ragged=True)
    known = prefix_address._version
    monkeypatch.setattr(prefix_address, "_version", lambda name: f"{known(name)}.other")
    assert reused(jobs.run(head_only, "second", ragged=True)) == 0
    monkeypatch.undo()
    assert reused(jobs.run(head_only, "third", ragged=True)) == 40
    assert len({path.parent for path in jobs.files("rows")}) == 2


def test_rows_of_another_machine_are_found_out(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Intact, and not what is computed here: some of them are computed again, and then all of them."""
    capture = Prefix.capture

    def elsewhere(self: Prefix, *arguments: Any, **options: Any) -> list[Tensor]:
        return [value * 1.0001 for value in capture(self, *arguments, **options)]

    with monkeypatch.context() as patch:
        patch.setattr(Prefix, "capture", elsewhere)
        jobs.run(head_only, "there")
    done = jobs.run(head_only, "here")
    assert reused(done) == 0
    assert len(warnings(done)) == 1 and "are not what this machine computes" in warnings(done)[0]
    assert_same(done, jobs.run(head_only, "alone", shared=False))


def test_a_machine_where_rows_depend_on_each_other(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is shared, which an event says; the job's own results depend on its data alone, as ever."""
    capture = Prefix.capture

    def mixed(self: Prefix, *arguments: Any, **options: Any) -> list[Tensor]:
        values = capture(self, *arguments, **options)
        return [value + value.mean() * 1e-6 for value in values]

    monkeypatch.setattr(Prefix, "capture", mixed)
    done = jobs.run(head_only, "done")
    assert any("depend on the other rows" in event["message"] for event in done.of("event"))
    assert not jobs.files("rows")
    assert_same(done, jobs.run(head_only, "again"))


def test_results_in_a_file_go_on_after_a_stop(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a shared folder, the next attempt at the job finds its own file."""
    monkeypatch.setattr(prefix_filling, "MEMORY_BYTES", 0)
    assert reused(jobs.run(encoder, "job", ragged=True, shared=False)) == 0
    again = jobs.run(encoder, "job", ragged=True, shared=False)
    assert reused(again) == 40
    assert_same(again, jobs.run(encoder, "alone", ragged=True, shared=False))


def test_a_job_from_before_is_filled_as_then(jobs: Jobs) -> None:
    """By batches in order of length, whose bits its checkpoints hold; it shares nothing."""
    work = encoder(jobs.root / "old", ragged=True)
    (jobs.root / "old" / "prefix-cache").symlink_to(jobs.folder)
    done = attempt(WorkOrder.from_json(work.to_json() | {"prefix_room": 1 << 30}), jobs.root / "old")
    assert in_use(done)
    assert not jobs.files("rows")
    assert_same(done, run(encoder, jobs.root / "again", ragged=True))
    assert FIXED["frozen_dropout"] is False
