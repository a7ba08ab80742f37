"""What the service counts, for Prometheus; every label's values are bounded."""

import os
import re
import resource
from collections.abc import Sequence
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

import lynceus

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # set by BentoML: values live in files there, and outlive a process
LIVE_GAUGE = re.compile(r"gauge_live\w+_(\d+)\.db")
STAGE_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
CANARY_SHIFTS = (
    ("score_shift", "Absolute change of the score of a matched detection.", (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)),
    ("flux_shift_ratio", "Absolute relative change of its flux.", (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)),
    ("centroid_shift_pixels", "Distance between its box centres.", (0.03, 0.1, 0.2, 0.3, 0.5, 1, 2, 5)),
    ("box_iou", "Intersection over union of its boxes.", (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1)),
    ("latency_ratio", "Time of the canary over that of stable, a frame.", (0.25, 0.5, 0.8, 1, 1.25, 1.5, 2, 3, 5, 10)),
)
DETECTION_BUCKETS = (0, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


class Metrics:
    """All metrics of one process.

    Parameters
    ----------
    latency_buckets : sequence of float
        Of the time a frame takes, in seconds.
    """

    def __init__(self, latency_buckets: Sequence[float]) -> None:
        self.registry = CollectorRegistry()
        forget_dead_processes()
        self.build = self._gauge("lynceus_build_info", "Versions, as labels.", ["version", "torch"])
        self.build.labels(_version(), torch.__version__).set(1)
        self.model = self._gauge(
            "lynceus_model_info", "1 for every version loaded.", ["name", "version", "track", "sha256"]
        )
        self.requests = self._counter("lynceus_http_requests", "Requests answered.", ["route", "code"])
        self.rejected = self._counter("lynceus_rejected", "Requests turned away, by error code.", ["code"])
        self.frame_seconds = self._histogram(
            "lynceus_frame_duration_seconds",
            "From a request's first byte to its answer.",
            latency_buckets,
            ["track", "outcome"],
        )
        self.stage_seconds = self._histogram(
            "lynceus_stage_duration_seconds", "Time in each stage of a frame.", STAGE_BUCKETS, ["stage", "track"]
        )
        self.detections = self._histogram(
            "lynceus_detections_per_frame", "Detections returned.", DETECTION_BUCKETS, ["track"]
        )
        self.batch = self._histogram("lynceus_batch_tiles", "Tiles the network took at once.", BATCH_BUCKETS)
        self.tiles = self._counter("lynceus_tiles", "Tiles the network took.")
        self.capped = self._counter("lynceus_capped_tiles", "Tiles in which a cap ended the list of detections.")
        self.load_failures = self._counter("lynceus_model_load_failures", "Bundles that could not be loaded.")
        self.canary_frames = self._counter(
            "lynceus_canary_frames", "Frames the canary was tried out on, by what came of it.", ["outcome"]
        )
        self.canary_detections = self._counter(
            "lynceus_canary_detections",
            "Detections of both versions (matched), of stable alone (lost), of the canary alone (gained).",
            ["outcome", "snr"],
        )
        self.canary_shifts = {
            name: self._histogram(f"lynceus_canary_{name}", text, buckets) for name, text, buckets in CANARY_SHIFTS
        }
        self.queue_tiles = self._gauge("lynceus_queue_tiles", "Tiles that wait for the network.")
        self.queue_oldest = self._gauge(
            "lynceus_queue_oldest_seconds", "Age of the frame that waits longest.", mode="livemax"
        )
        self.resident = self._gauge("lynceus_process_resident_bytes", "Memory the server holds.")

    def count_batch(self, size: int) -> None:
        """Note a batch of so many tiles."""
        self.batch.observe(size)
        self.tiles.inc(size)

    def exposition(self, queue_tiles: int, queue_oldest: float) -> bytes:
        """Everything, in the text format of Prometheus; the gauges of the queue are read now."""
        self.queue_tiles.set(queue_tiles)
        self.queue_oldest.set(queue_oldest)
        self.resident.set(_resident_bytes())
        if MULTIPROCESS not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = (), mode: str = "livesum") -> Gauge:
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=mode)  # type: ignore[arg-type]

    def _histogram(self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)


def forget_dead_processes() -> None:
    """Drop the gauges of processes that are gone; their counters stay, as counters must not fall."""
    folder = os.environ.get(MULTIPROCESS)
    for file in Path(folder).glob("gauge_live*.db") if folder else ():
        match = LIVE_GAUGE.fullmatch(file.name)
        if match and not Path("/proc", match[1]).exists():
            mark_process_dead(int(match[1]), folder)  # type: ignore[no-untyped-call]


def _version() -> str:
    return str(getattr(lynceus, "__version__", "unknown"))


def _resident_bytes() -> int:
    """Resident memory; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()
