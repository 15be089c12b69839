"""Which devices a worker has, and that each is used by one job at a time."""

import sys
from pathlib import Path

import pytest

from app.errors import InvalidRequest
from worker.supervisor import cuda
from worker.supervisor.devices import PCI_ORDER, Device, Slots, find_devices, idle_gpu


@pytest.fixture(autouse=True)
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /dev of this test's own with two CUDA devices, no NVML, and a torch that can use them."""
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(cuda, "DEV", tmp_path)
    monkeypatch.setattr(cuda, "PCI", tmp_path / "pci")
    monkeypatch.setattr(cuda, "cpu_build", lambda: None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    return tmp_path


def ordinal(number: str) -> Device:
    """A device that this worker counted itself."""
    return Device("cuda", (("CUDA_VISIBLE_DEVICES", number), PCI_ORDER), product="cuda")


def only(identifier: str, product: str = "cuda") -> Device:
    """A device that somebody else named."""
    return Device("cuda", (("CUDA_VISIBLE_DEVICES", identifier),), product=product)


@pytest.mark.parametrize(
    ("asked", "environment", "found"),
    [
        ("auto", {}, [ordinal("0"), ordinal("1")]),
        ("auto", {"CUDA_VISIBLE_DEVICES": "1"}, [only("1")]),
        ("auto", {"CUDA_VISIBLE_DEVICES": "GPU-ab12"}, [only("GPU-ab12")]),
        ("auto", {"CUDA_VISIBLE_DEVICES": ""}, [Device("cpu")]),
        ("cpu", {}, [Device("cpu", (("CUDA_VISIBLE_DEVICES", ""),))]),
        ("cpu:3", {}, [Device("cpu", (("CUDA_VISIBLE_DEVICES", ""),))] * 3),
        ("cuda:1", {}, [ordinal("1")]),
        ("cuda:7", {"CUDA_VISIBLE_DEVICES": "7,3"}, [only("7")]),
        ("cuda", {}, [ordinal("0"), ordinal("1")]),
    ],
)
def test_devices_are_found(asked: str, environment: dict[str, str], found: list[Device]) -> None:
    """One slot per CUDA device that may be used, counted as CUDA does and not as device files are; else CPU slots."""
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


def test_a_group_has_devices_of_one_product() -> None:
    """Ranks on devices of two kinds would wait for the slower one; a job that names a product gets that one."""
    slots = Slots([only("0", "A10"), only("1", "H100 PCIe"), only("2", "H100 PCIe"), only("3", "A10")])
    both = slots.take(2, "h100")
    assert both is not None
    assert (both.environment, both.product) == ((("CUDA_VISIBLE_DEVICES", "1,2"),), "H100 PCIe")
    assert (slots.take(1, "H100"), slots.offer().free_devices) == (None, {"A10": 2})
    slots.give_back(both)
    assert slots.most == 2
    assert slots.take(3) is None


def test_no_group_of_mig_instances() -> None:
    """CUDA shows one instance to a process, so each is for one job."""
    slots = Slots(
        [Device("cuda", (("CUDA_VISIBLE_DEVICES", f"MIG-{n}"),), product="H100 1g", partition=True) for n in "ab"]
    )
    assert (slots.most, slots.take(2)) == (1, None)
    assert [slots.take(), slots.take(), slots.take()] == [*slots.devices, None]


def test_ordinals_of_ours_count_along_the_bus() -> None:
    """CUDA itself would count the fastest device first."""
    both = Slots([ordinal("0"), ordinal("1")]).take(2)
    assert both is not None
    assert both.environment == (("CUDA_VISIBLE_DEVICES", "0,1"), PCI_ORDER)


def test_torch_for_the_cpu_alone_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` trains on the CPU and says why the GPU is idle; `cuda` is refused with the same reason."""
    monkeypatch.setattr(cuda, "cpu_build", lambda: "the installed torch is built for the CPU only")
    assert find_devices("auto", environment={}) == [Device("cpu")]
    assert idle_gpu("auto", environment={}) == "the installed torch is built for the CPU only"
    assert idle_gpu("cpu", environment={}) is None
    with pytest.raises(InvalidRequest, match="PERMAFROST_DEVICES=cuda: the installed torch is built for the CPU only"):
        find_devices("cuda", environment={})


def test_a_gpu_without_a_driver_is_a_reason(dev: Path) -> None:
    """Where CUDA has no device, `auto` says which GPU the machine has; where it has none, there is nothing to say."""
    for path in dev.iterdir():
        path.unlink()
    assert idle_gpu("auto", environment={}) is None
    (dev / "kfd").touch()
    reason = idle_gpu("auto", environment={})
    assert reason is not None
    assert "an AMD GPU" in reason
    with pytest.raises(InvalidRequest, match="this worker has no CUDA device; this machine has an AMD GPU"):
        find_devices("cuda", environment={})
