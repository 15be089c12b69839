"""What an auditor's papers cost a job: recipe, digests of its checkpoints, signatures, the log's entry.

Shares are of processor time of this process, which a busy machine does not change; milliseconds are the clock's, the
fastest of some. The answer of a time-stamping authority is not counted: its time is its own.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Final
from unittest import mock

from app.evidence.format.digest import read_file
from app.evidence.format.envelope import seal
from app.evidence.format.keys import SigningKey, generate
from app.evidence.format.log_proof import statement_entry
from app.evidence.format.recipe import SavedState
from app.evidence.format.statement import FileRef
from app.evidence.transparency.journal import Journal
from app.freeze.policy import Policy
from app.jobs.queue.tables import Job
from app.models.tables import Model
from benchmarks.figure import Figure
from benchmarks.log import FEW, filled
from benchmarks.stand_in import folder, in_turn
from benchmarks.work import MINILM, minilm_base, texts
from worker.protocol import Report, WorkOrder, Workspace, read_reports
from worker.supervisor.checkpoints import WEIGHTS, saved_state
from worker.supervisor.recipes import Handed, Seen, recipe
from worker.trainer import main as trainer
from worker.trainer.own_word import own_word

SEGMENTS: Final = 10
ROUNDS: Final = 40
TEXTS: Final = int(os.environ.get("BENCH_TEXTS", "2000"))


def figures() -> Iterable[Figure]:
    with folder() as place:
        yield from share_of_a_job(place / "head")


def share_of_a_job(place: Path) -> Iterable[Figure]:
    """MiniLM under a new head, all of it frozen: what the recipe adds, in the trainer and at the end."""
    order = work_order(place, count=TEXTS, policy={"freeze": ["bert.**"]}, hyperparameters={"n_epochs": 3})
    word: list[float] = []
    whole = processor_seconds(lambda: trained(order, place, word))
    reports, _ = read_reports(Workspace(place).reports)
    log, end = filled(place / "log", FEW), Ending(reports[-1])
    ending = processor_seconds(lambda: end.with_log(log))
    kept = [(path, read_file(path / WEIGHTS)) for path in Workspace(place).checkpoints.glob("step-*")]
    states = processor_seconds(lambda: [saved_state(path, 1, weights) for path, weights in kept])
    added = sum(word) + ending + states
    yield Figure(f"recipe and log: head-only MiniLM, {TEXTS} texts, added", 100 * added / whole, "% of the job", 2)
    yield Figure("recipe: with the digest of the code, read once by a worker", 1000 * ending, "ms", "at start")
    works: dict[str, Callable[[], object]] = {
        "recipe: at the end of a job, signed": end.sign,
        "recipe: and by ML-DSA-65": partial(end.sign, [KEY, MLDSA]),
        "recipe and log: at the end of a job, together": partial(end.with_log, log, [KEY, MLDSA]),
    }
    for name, seconds in in_turn(works, ROUNDS).items():
        yield Figure(name, 1000 * min(seconds), "ms", "at most 50")
        yield Figure(f"{name}, median", 1000 * median(seconds), "ms")
    log.db.close()


def work_order(place: Path, *, count: int, policy: dict[str, Any], hyperparameters: dict[str, Any]) -> WorkOrder:
    """A job on the first `count` texts, in a workspace of its own."""
    workspace = Workspace(place).create()
    minilm_base(workspace.base)
    rows = "".join(json.dumps(row) + "\n" for row in texts(count))
    (workspace.data / "training.jsonl").write_text(rows, "utf-8")
    fields = {"job_id": "ftjob-1", "stage": "train", "model": MINILM, "task": "text-classification", "seed": 1}
    fields |= {"data": {"training": "data/training.jsonl", "format": "jsonl"}, "device": "cpu"}
    return WorkOrder.from_json(fields | {"policy": policy, "hyperparameters": hyperparameters})


def trained(order: WorkOrder, place: Path, word: list[float]) -> None:
    """Run the trainer here; the seconds that its own word takes are added to `word`."""
    order.save(place)

    def timed(*arguments: Any) -> Any:
        found: list[Any] = []
        word.append(processor_seconds(lambda: found.append(own_word(*arguments))))
        return found[0]

    with redirect_stdout(sys.stderr), suppress(SystemExit), mock.patch.object(trainer, "own_word", timed):
        trainer.run(place)


@dataclass(slots=True)
class Ending:
    """What a supervisor adds once a trainer has ended: a recipe, its signatures, and an entry in the log."""

    done: Report
    numbers: Iterator[int] = field(default_factory=count)

    def sign(self, keys: Sequence[SigningKey] = ()) -> bytes:
        now = datetime.now(UTC)
        job = Job(id="ftjob-1", attempt=1, crashes=0, losses=0, started_at=now, seed=1, task="text-classification")
        job.model_spec, job.data, job.hyperparameters = {"type": "transformers", "path": "minilm"}, {}, {}
        job.freeze_policy, job.evidence_options, job.strategy = Policy().to_json(), {}, "ddp"
        states = tuple(SavedState(step=step, root="00" * 32, files=()) for step in range(SEGMENTS))
        seen = Seen(handed=Handed(training=FileRef("training", 1, "00" * 32)), checkpoints=states)
        base = Model(id="minilm", kind="base", root="00" * 32)
        subjects = [FileRef("config.json", 1, "00" * 32)]
        payload = recipe(job, base, Policy(), seen, self.done, subjects=subjects, origin={})
        seal(payload, keys or [KEY])
        return payload

    def with_log(self, log: Journal, keys: Sequence[SigningKey] = ()) -> None:
        at, payload = next(self.numbers), self.sign(keys)
        log.enter(statement_entry(b"statement %d" % at, payload, job=f"ftjob-{at}", attempt=1))


KEY: Final = generate()
MLDSA: Final = generate("ml-dsa-65")


def processor_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
