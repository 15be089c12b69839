"""Which variables of a worker its trainers get."""

from pathlib import Path

import worker
from worker.supervisor.process.environment import cleaned

HOME = Path("/nowhere/home")


def test_only_what_numerics_needs_passes() -> None:
    """Paths, languages, thread counts and devices pass; whatever else is set does not."""
    given = {
        "PATH": "/usr/bin",
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "1",
        "PERMAFROST_DATABASE_URL": "postgresql://user:password@host/db",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HF_TOKEN": "secret",
        "SSH_AUTH_SOCK": "/tmp/agent",
        "HTTPS_PROXY": "http://user:password@proxy",
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    }
    found = cleaned(given, home=HOME)
    assert {name for name in given if name in found} == {"PATH", "LC_ALL", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"}
    assert not {"password", "secret"} & set(" ".join(found.values()).split("@"))


def test_worker_cannot_turn_the_network_on() -> None:
    """What is fixed is fixed, whatever the worker's own environment says."""
    found = cleaned({"HF_HUB_OFFLINE": "0", "PYTHONHASHSEED": "random", "HOME": "/root"}, home=HOME)
    assert (found["HF_HUB_OFFLINE"], found["PYTHONHASHSEED"], found["HOME"]) == ("1", "0", str(HOME))


def test_import_path_begins_with_this_package() -> None:
    """Relative entries are made absolute: the forkserver works in another folder."""
    first, second = cleaned({"PYTHONPATH": "src"}, home=HOME)["PYTHONPATH"].split(":")
    assert Path(first) == Path(worker.__path__[0]).parent
    assert Path(second) == Path("src").absolute()
