"""Jobs that cannot go well: out of memory, poison, bad data, numbers that are none. One ending, with its reason."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from safetensors.numpy import load

from app.db import new_id
from app.files.tables import File
from tests.chaos.cluster import Cluster, eventually
from tests.chaos.runs import TABLE, Gates, in_a_step, order


@pytest.mark.fault(25)
def test_poison_job(cluster: Cluster, gates: Gates) -> None:
    """Whoever trains it dies: failed after three, with the last lines of its log, and the queue moves on."""
    gates.close("step-3", "die")
    poison = cluster.submit(order(cluster, gates))
    job = cluster.ended(poison)
    assert (job["status"], job["attempts"], job["error"]["code"]) == ("failed", 3, "trainer_crashed")
    assert "the last words of a poisoned job" in cluster.row(poison).error["log_tail"]
    gates.open_all()
    assert cluster.ended(cluster.submit(order(cluster, gates)))["status"] == "succeeded"


@pytest.mark.fault(24)
def test_host_out_of_memory(cluster: Cluster, gates: Gates) -> None:
    """The kernel kills the trainer and not the worker; tried three times, and the next job runs."""
    with memory_cage() as put:
        for attempt in (1, 2, 3):
            gates.close(f"a{attempt}-step-3", "eat")
        job_id = cluster.submit(order(cluster, gates))
        for attempt in (1, 2, 3):
            pid = gates.reached(f"a{attempt}-step-3", says=lambda: cluster.story(job_id))
            assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "500"
            put(pid)
            gates.open(f"a{attempt}-step-3")
        job = cluster.ended(job_id)
    assert (job["status"], job["attempts"]) == ("failed", 3)
    assert "signal 9" in job["error"]["message"]
    assert cluster.worker.popen.poll() is None
    assert cluster.ended(cluster.submit(order(cluster, gates)))["status"] == "succeeded"


@contextlib.contextmanager
def memory_cage() -> Iterator[Callable[[int], None]]:
    """A control group with little memory. Where none can be made, the process is killed as the kernel would do it."""
    places = {"memory": "memory.limit_in_bytes", "": "memory.max"}
    for folder, limit in places.items():
        group = Path("/sys/fs/cgroup") / folder / f"permafrost-{new_id('chaos')}"
        try:
            group.mkdir()
            (group / limit).write_text(str(64 << 20))
        except OSError:
            continue
        try:
            yield partial(_enter, group)
        finally:
            eventually(partial(_is_empty, group))
            group.rmdir()
        return
    yield lambda pid: os.kill(pid, signal.SIGKILL)


def _is_empty(group: Path) -> bool:
    return not (group / "cgroup.procs").read_text()


def _enter(group: Path, pid: int) -> None:
    (group / "cgroup.procs").write_text(str(pid))


@pytest.mark.fault(24)
def test_device_out_of_memory(cluster: Cluster, gates: Gates) -> None:
    """Not tried again: it would end the same way. The message says what to lower."""
    gates.close("step-3", "run out")
    body = order(cluster, gates)
    body["hyperparameters"] = body["hyperparameters"] | {"batch_size": 1, "n_epochs": 1}
    job = cluster.ended(cluster.submit(body))
    assert (job["status"], job["attempts"], job["error"]["code"]) == ("failed", 1, "out_of_memory")
    assert job["error"]["param"] == "hyperparameters.batch_size"


@pytest.mark.fault(27)
def test_loss_that_is_no_number(cluster: Cluster, gates: Gates) -> None:
    """Failed at that step, not tried again; the last state before it is kept, and finite."""
    body = order(cluster, gates)
    body["hyperparameters"] = {
        "n_epochs": 50,
        "batch_size": 8,
        "checkpoint_steps": 1,
        "learning_rate": 1e6,
        "optimizer": {"name": "sgd"},
    }
    job = cluster.ended(cluster.submit(body))
    assert (job["status"], job["attempts"], job["error"]["code"]) == ("failed", 1, "diverged"), job["error"]
    kept = cluster.get(f"fine_tuning/jobs/{job['id']}/checkpoints")["data"][0]["fine_tuned_model_checkpoint"]
    stored = cluster.client.get(f"models/{kept}/files/model.safetensors")
    assert stored.status_code == 200, stored.text
    assert all(abs(tensor).max() < float("inf") for tensor in load(stored.content).values())


@pytest.mark.fault(26)
def test_bad_data_is_refused(cluster: Cluster) -> None:
    """With the line and what is wrong there: at the upload, with the job, or in its one and only attempt."""
    for content, name, line in (
        (b'{"x": [1, 2], "y": 3}\n{"x": [1, 2], "y": \n', "torn.jsonl", 2),
        (b'{"x": [1, 2], "y": 3}\n{"x": [1, 2], "y": "\0"}\n', "nul.jsonl", 2),
        (b'{"x": [1, 2], "y": 3}\n{"x": [1, ' + b"2, " * 4_000_000, "endless.jsonl", 2),
        (b"PAR1" + bytes(400), "broken.parquet", None),
    ):
        error = _refusal(cluster, content, name)
        assert line is None or error["errors"][0]["line"] == line, error


def _refusal(cluster: Cluster, content: bytes, name: str) -> dict[str, Any]:
    answer = cluster.client.post("files", data={"purpose": "fine-tune"}, files={"file": (name, content)})
    if answer.status_code == 200:
        spec = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 2, "out_features": 1}}
        answer = cluster.client.post("fine_tuning/jobs", json={"model": spec, "training_file": answer.json()["id"]})
    if answer.status_code == 200:
        cluster.jobs.append(answer.json()["id"])
        job = cluster.ended(cluster.jobs[-1])
        assert (job["status"], job["attempts"]) == ("failed", 1), job
        return dict(job["error"])
    assert answer.status_code == 400, (name, answer.text[:300])
    return dict(answer.json()["error"])


@pytest.mark.fault(26)
def test_data_that_has_changed(cluster: Cluster, gates: Gates) -> None:
    """Bytes that are not the uploaded ones are not trained on, nor is that tried twice."""
    table = TABLE.replace(b"a,b,c,d,y", b"e,f,g,h,y")
    body = order(cluster, gates, table=cluster.upload(table))
    caught = in_a_step(cluster, gates)  # the only device is in use while the file changes
    assert caught is not None
    job_id = cluster.submit(body)
    blob = _blob(cluster, body["training_file"])
    blob.chmod(0o644)
    blob.write_bytes(table.replace(b"e,f", b"f,e"))
    caught.go_on()
    job = cluster.ended(job_id)
    assert (job["status"], job["attempts"], job["error"]["code"]) == ("failed", 1, "data_changed")
    assert job["error"]["param"] == "training_file"
    blob.write_bytes(table)


def _blob(cluster: Cluster, file_id: str) -> Path:
    with cluster.db.read() as session:
        return cluster.settings.home / "blobs" / session.get_one(File, file_id).blob


@pytest.mark.fault(36)
def test_data_in_use_is_not_deleted(cluster: Cluster, gates: Gates) -> None:
    """409 while the job needs it; the job ends well, and then the file may go."""
    caught = in_a_step(cluster, gates)
    assert caught is not None
    file_id = cluster.job(caught.job_id)["training_file"]
    refused: httpx2.Response = cluster.client.delete(f"files/{file_id}")
    error: dict[str, Any] = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (409, "file_in_use")
    assert caught.job_id in error["message"]
    caught.go_on()
    assert cluster.ended(caught.job_id)["status"] == "succeeded"
    assert cluster.client.delete(f"files/{file_id}").status_code == 200
