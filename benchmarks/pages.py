"""Pages for people, over HTTP on PostgreSQL: a finished job of 2,000 tensors, and the dashboard over 100,000 jobs.

Two services over two databases of one server hold 100 and 100,000 jobs; their requests alternate, and each figure is a
median. A page is rendered whole before its first byte is sent, so the time is that to its last.
"""

import statistics
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg

from app.evidence.tables import Evidence, Parameter
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Outcome
from app.logs.queries import append
from benchmarks.deployed import Place, multiply, place, postgres, queued, running
from benchmarks.figure import Figure
from benchmarks.list_page import compared, read

FEW, MANY = 100, 100_000
READS = 60
LAYERS, STEPS = 200, 2_000
CHECKPOINTS = (400, 800, 1_200, 1_600)
_PARTS = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
    *("input_layernorm", "post_attention_layernorm", "self_attn.q_norm"),
)
#: What a reader of a dashboard looks at.
PAGES = {
    "dashboard": "/",
    "dashboard, one state": "/?status=succeeded",
    "dashboard, one verdict": "/?verdict=violated",
    "dashboard, without evidence": "/?verdict=none",
    "dashboard, one tag": "/?tag=bench",
}


def figures() -> Iterable[Figure]:
    with tempfile.TemporaryDirectory(prefix="permafrost-bench-") as name:
        folder = Path(name)
        with (
            postgres(folder / "postgres") as server,
            place(server, "few", folder) as few,
            place(server, "many", folder) as many,
        ):
            yield from _job_page(few)
            for each, upto in ((few, FEW), (many, MANY)):
                multiply(each, queued(each, tags=["bench"]), upto=upto)
                _judge(each)
            for title, path in PAGES.items():
                yield from compared(title, path, (few, FEW), (many, MANY), reads=READS)


def _job_page(each: Place) -> Iterator[Figure]:
    path = f"/jobs/{_finished(each)}"
    read(each, path)
    took = sorted(read(each, path) for _ in range(READS))
    size = len(each.service.read(path))
    name = f"page of a job with {LAYERS * len(_PARTS):,} tensors"
    yield Figure(f"{name}, median", statistics.median(took), "ms", "at most 300")
    yield Figure(f"{name}, fastest", took[0], "ms", "at most 300; what a machine without other work takes")
    yield Figure("its size", size / 1000, "kB", "at most 300")


def _finished(each: Place) -> str:
    """A job with a curve, a log, checkpoints, and two thirds of its tensors trained."""
    job_id, lease = running(each)
    points = [(step, "train", {"loss": 2 / step, "learning_rate": 1e-5, "grad_norm": 1.0}) for step in range(1, STEPS)]
    lifecycle.beat(each.database, lease, AttemptUpdates(metrics=points))
    with each.database.write() as session:
        append(session, job_id, 1, [f"step {step} loss {2 / step:.4f}" for step in range(1, STEPS)])
    evidence = Evidence(job_id=job_id, attempt=1, verdict="verified", frozen_tensors=667, frozen_bytes=1)
    evidence.violations, evidence.checks, evidence.envelope = [], {}, b"{}"
    names = sorted(f"model.layers.{layer}.{part}.weight" for layer in range(LAYERS) for part in _PARTS)
    tensors = [_tensor(job_id, at, name) for at, name in enumerate(names)]
    lifecycle.finish(each.database, lease, Outcome("succeeded", evidence=evidence, parameters=tensors))
    return job_id


def _tensor(job_id: str, position: int, name: str) -> Parameter:
    trained = position % 3 != 0
    row = Parameter(job_id=job_id, position=position, name=name, kind="parameter", dtype="BF16")
    row.role, row.changed, row.result_sha256 = "trainable" if trained else "frozen", trained, "ab" * 32
    row.shape, row.elements, row.nbytes = [4096, 4096], 4096 * 4096, 2 * 4096 * 4096
    statistics_ = dict.fromkeys(("relative_l2", "l2", "max_abs", "cosine", "fraction"), 0.0123456)
    row.stats = statistics_ if trained else None
    row.history = [{"step": step, **statistics_} for step in CHECKPOINTS] if trained else []
    return row


def _judge(each: Place) -> None:
    """Evidence for every job that has ended, one in a thousand violated, as a service has that was used for long."""
    with psycopg.connect(each.url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO evidence "
            "(job_id, created_at, attempt, verdict, frozen_tensors, frozen_bytes, violations, checks) "
            "SELECT id, created_at, 1, CASE WHEN id LIKE '%7000' THEN 'violated' ELSE 'verified' END, 1, 4, '[]', '{}' "
            "FROM jobs WHERE status = 'succeeded' ON CONFLICT DO NOTHING"
        )
        connection.execute("VACUUM ANALYZE")
