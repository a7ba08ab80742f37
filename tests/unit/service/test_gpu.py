import time
from typing import Any

import pynvml
from prometheus_client import CollectorRegistry, Counter

from service.gpu import GpuSampler
from tests.fakes import FakeGpu, FakeNvml, two_gpus

FIRST, SECOND = (gpu.uuid for gpu in two_gpus().gpus)
NAMES = {
    "lynceus_gpu_utilization_ratio",
    "lynceus_gpu_memory_used_bytes",
    "lynceus_gpu_memory_total_bytes",
    "lynceus_gpu_temperature_celsius",
    "lynceus_gpu_power_watts",
}


class Watched:
    """A sampler and what Prometheus would see of it."""

    def __init__(self, nvml: Any, period: float = 60.0) -> None:
        self.registry = CollectorRegistry()
        self.sampler = GpuSampler(Counter("failures", "-", registry=self.registry), period, nvml)
        self.registry.register(self.sampler)

    def value(self, name: str, gpu: str = FIRST) -> float | None:
        return self.registry.get_sample_value(f"lynceus_gpu_{name}", {"gpu": gpu})

    @property
    def names(self) -> set[str]:
        return {family.name for family in self.registry.collect() if family.name.startswith("lynceus_gpu")}

    @property
    def failures(self) -> float | None:
        return self.registry.get_sample_value("failures_total")


def test_two_gpus_in_seconds_bytes_and_ratios() -> None:
    watched = Watched(two_gpus())
    watched.sampler.sample()
    assert watched.names == NAMES
    assert (watched.value("utilization_ratio"), watched.value("utilization_ratio", SECOND)) == (0.8, 0)
    assert (watched.value("memory_used_bytes"), watched.value("memory_total_bytes")) == (6 * 2**30, 16 * 2**30)
    assert (watched.value("temperature_celsius"), watched.value("power_watts")) == (61, 150.5)
    assert watched.failures == 0


def test_what_a_gpu_does_not_tell_is_absent() -> None:
    watched = Watched(FakeNvml(FakeGpu(utilization=None, power=None)))  # as with MIG
    watched.sampler.sample()
    assert NAMES - watched.names == {"lynceus_gpu_utilization_ratio", "lynceus_gpu_power_watts"}
    assert watched.failures == 0


def test_a_lost_gpu_drops_out_is_counted_and_may_come_back() -> None:
    nvml = two_gpus()
    watched = Watched(nvml)
    watched.sampler.sample()
    nvml.gpus[0].lost = True
    for _ in range(2):
        watched.sampler.sample()
    assert (watched.value("power_watts"), watched.value("power_watts", SECOND)) == (None, 25)
    assert watched.failures == 2
    nvml.gpus[0].lost = False
    watched.sampler.sample()
    assert watched.value("power_watts") == 150.5


def test_when_the_driver_goes_all_are_absent_and_it_is_begun_anew() -> None:
    nvml = two_gpus()
    watched = Watched(nvml)
    watched.sampler.sample()
    nvml.broken = True
    watched.sampler.sample()
    assert (watched.names, watched.failures) == (set(), 2)
    nvml.broken = False
    watched.sampler.sample()
    assert (watched.names, nvml.open) == (NAMES, 1)


def test_without_a_driver_or_a_gpu_nothing_is_asked_again() -> None:
    for nvml in (FakeNvml(FakeGpu(), broken=True), FakeNvml()):
        watched = Watched(nvml, period=0.001)
        watched.sampler.start()
        thread = watched.sampler._thread
        assert thread is not None
        thread.join(30)
        assert not thread.is_alive()
        assert (watched.names, watched.failures, nvml.open) == (set(), 0, 0)
        watched.sampler.close()


def test_the_real_library_without_a_gpu_is_no_error() -> None:
    watched = Watched(None)
    watched.sampler.sample()
    assert watched.failures == 0
    watched.sampler.close()


def test_whatever_it_raises_is_no_error() -> None:
    class Broken(FakeNvml):
        def nvmlDeviceGetCount(self) -> int:  # noqa: N802
            raise OSError("no such library")

    watched = Watched(Broken(FakeGpu()))
    watched.sampler.sample()
    assert watched.names == set()


def test_a_sample_of_a_driver_that_hangs_is_not_shown_for_long() -> None:
    watched = Watched(two_gpus(), period=0.01)
    watched.sampler.sample()
    time.sleep(0.04)
    assert watched.names == set()


def test_it_samples_until_it_is_closed() -> None:
    nvml = two_gpus()
    watched = Watched(nvml, period=0.01)
    watched.sampler.start()
    until = time.monotonic() + 30
    while nvml.asked < 3 and time.monotonic() < until:
        time.sleep(0.01)
    watched.sampler.close()
    assert nvml.asked >= 3
    assert (nvml.open, watched.names) == (0, set())


def test_the_stand_in_has_no_function_that_the_real_library_lacks() -> None:
    names = [name for name in vars(FakeNvml) if name.lower().startswith("nvml")]
    assert len(names) == 11
    assert [name for name in names if not hasattr(pynvml, name)] == []
