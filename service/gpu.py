"""The GPUs by NVML, for Prometheus: asked in a loop, absent where there are none, and never an error."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pynvml
from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

PERCENT, MILLIWATTS = 0.01, 0.001
LATE = 3  # rounds after which a sample is too old to be shown: the driver may hang

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quantity:
    """What is asked of a GPU, and the metric it becomes."""

    name: str
    text: str
    read: Callable[[Any, Any], float]


QUANTITIES = (
    Quantity(
        "lynceus_gpu_utilization_ratio",
        "Share of the time in which the GPU was at work.",
        lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu * PERCENT,
    ),
    Quantity(
        "lynceus_gpu_memory_used_bytes",
        "Memory of the GPU in use, by whomever.",
        lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
    ),
    Quantity(
        "lynceus_gpu_memory_total_bytes",
        "Memory that the GPU has.",
        lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
    ),
    Quantity(
        "lynceus_gpu_temperature_celsius",
        "Temperature of the GPU.",
        lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    ),
    Quantity(
        "lynceus_gpu_power_watts",
        "Power that the GPU draws.",
        lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) * MILLIWATTS,
    ),
)
Sample = Mapping[str, Mapping[str, float]]
"""Values by the UUID of the GPU and the name of the metric."""


class GpuSampler(Collector):
    """Asks NVML in a thread of its own, because a driver may hang, and shows what it said last.

    Parameters
    ----------
    failures : Counter
        Counts the rounds in which a GPU that was there did not answer.
    period : float
        Seconds between two rounds.
    nvml : module or None
        `pynvml` by default.
    """

    def __init__(self, failures: Counter, period: float = 5.0, nvml: Any = None) -> None:
        self._failures = failures
        self._period = period
        self._nvml = nvml or pynvml
        self._sample: Sample = {}
        self._sampled = 0.0
        self._seen: set[str] = set()
        self._stop = threading.Event()
        self._is_open = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._thread = threading.Thread(target=self._work, name="gpu", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more; a call that hangs is left to itself."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self._period)
        self._sample = {}

    def sample(self) -> None:
        """Ask every GPU once; one that is lost is left out, and so are all if the driver is."""
        try:
            self._open()
            fresh = dict(self._read_all())
        except Exception as error:
            logger.debug("NVML failed: %s", error)
            self._close()
            fresh = {}
        lost = self._seen - fresh.keys()
        if lost:
            self._failures.inc(len(lost))
        for uuid in lost & self._sample.keys():
            logger.warning("the GPU %s does not answer any more", uuid)
        self._seen |= fresh.keys()
        self._sample, self._sampled = fresh, time.monotonic()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give Prometheus the last sample; a quantity that no GPU tells of is absent."""
        is_late = time.monotonic() - self._sampled > LATE * self._period
        sample = {} if is_late else self._sample
        for quantity in QUANTITIES:
            family = GaugeMetricFamily(quantity.name, quantity.text, labels=["gpu"])
            for uuid, values in sample.items():
                if quantity.name in values:
                    family.add_metric([uuid], values[quantity.name])
            if family.samples:
                yield family

    def _work(self) -> None:
        """Ask until the end; no more than once where there is no driver or no GPU."""
        self.sample()
        if not self._seen:
            logger.info("no GPU answers, there are no GPU metrics")
        while self._seen and not self._stop.wait(self._period):
            self.sample()
        self._close()

    def _read_all(self) -> Iterator[tuple[str, Mapping[str, float]]]:
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                gpu = self._nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = str(self._nvml.nvmlDeviceGetUUID(gpu))
            except self._nvml.NVMLError:
                continue
            values = self._read(gpu)
            if values:
                yield uuid, values

    def _read(self, gpu: Any) -> dict[str, float]:
        """What a GPU tells; few tell everything."""
        values = {}
        for quantity in QUANTITIES:
            try:
                values[quantity.name] = float(quantity.read(self._nvml, gpu))
            except self._nvml.NVMLError:
                continue
        return values

    def _open(self) -> None:
        if not self._is_open:
            self._nvml.nvmlInit()
            self._is_open = True

    def _close(self) -> None:
        """Let go of the driver: after a failure only a new beginning can help."""
        if self._is_open:
            self._is_open = False
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError as error:
                logger.debug("NVML did not end: %s", error)
