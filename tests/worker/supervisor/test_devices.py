"""Which devices a worker has, and that each is used by one job at a time."""

from pathlib import Path

import pytest

from app.errors import InvalidRequest
from worker.supervisor import devices
from worker.supervisor.devices import Device, Slots, find_devices


@pytest.fixture(autouse=True)
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /dev of this test's own, with two CUDA devices."""
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "DEV", tmp_path)
    return tmp_path


def only(identifier: str) -> Device:
    return Device("cuda", (("CUDA_VISIBLE_DEVICES", identifier),))


@pytest.mark.parametrize(
    ("asked", "environment", "found"),
    [
        ("auto", {}, [only("0"), only("1")]),
        ("auto", {"CUDA_VISIBLE_DEVICES": "1"}, [only("1")]),
        ("auto", {"CUDA_VISIBLE_DEVICES": "GPU-ab12"}, [only("GPU-ab12")]),
        ("auto", {"CUDA_VISIBLE_DEVICES": ""}, [Device("cpu")]),
        ("cpu", {}, [Device("cpu", (("CUDA_VISIBLE_DEVICES", ""),))]),
        ("cpu:3", {}, [Device("cpu", (("CUDA_VISIBLE_DEVICES", ""),))] * 3),
        ("cuda:1", {}, [only("1")]),
        ("cuda", {}, [only("0"), only("1")]),
    ],
)
def test_devices_are_found(asked: str, environment: dict[str, str], found: list[Device]) -> None:
    """One slot per CUDA device that may be used, else as many CPU slots as are asked for."""
    assert find_devices(asked, environment=environment) == found


def test_no_device_file_means_the_cpu(dev: Path) -> None:
    """A machine without CUDA has one slot."""
    for path in dev.iterdir():
        path.unlink()
    assert find_devices("auto", environment={}) == [Device("cpu")]


@pytest.mark.parametrize("asked", ["cuda:7", "tpu", "cpu:", "cuda:a"])
def test_what_is_not_there_is_refused(asked: str) -> None:
    """The message repeats the setting and says what there is, or what could be written."""
    with pytest.raises(InvalidRequest, match=rf"PERMAFROST_DEVICES={asked}"):
        find_devices(asked, environment={})


def test_cuda_without_devices_is_refused() -> None:
    """Asking for CUDA where none may be used is a mistake in the settings."""
    with pytest.raises(InvalidRequest, match="this worker has no CUDA device"):
        find_devices("cuda", environment={"CUDA_VISIBLE_DEVICES": "-1"})


def test_device_is_used_once() -> None:
    """While every device is in use there is none; given back, it is there again."""
    slots = Slots([only("0")])
    first = slots.take()
    assert (first, slots.free, slots.take()) == (only("0"), 0, None)
    assert first is not None
    slots.give_back(first)
    assert slots.free == 1


def test_several_devices_are_one() -> None:
    """A job that gets several sees them all; fewer than it asked for it does not get; they come back one by one."""
    slots = Slots([only("0"), only("2"), only("5")])
    both = slots.take(2)
    assert both is not None
    assert (both.name, both.environment, both.count) == ("cuda", (("CUDA_VISIBLE_DEVICES", "0,2"),), 2)
    assert (slots.free, slots.take(2)) == (1, None)
    slots.give_back(both)
    assert slots.free == 3
    assert slots.take() == only("5")


def test_cpu_devices_hide_every_gpu_together_too() -> None:
    """Two CPU slots as one are still no way to a GPU."""
    both = Slots(find_devices("cpu:2")).take(2)
    assert both is not None
    assert both.environment == (("CUDA_VISIBLE_DEVICES", ""),)
