"""What the service counts, for Prometheus; every label's values are bounded."""

import os
import re
import resource
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

import lynceus
from lynceus.pairing import SNR_BINS

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # set by BentoML: values live in files there, and outlive a process
LIVE_GAUGE = re.compile(r"gauge_live\w+_(\d+)\.db")
SIGNED_IN = "started_{pid}"  # name of the file that tells a process from a later one of the same number
STAGE_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
OUTCOMES = (  # of a frame, besides the caller's mistakes
    "ok",
    "client_gone",
    "deadline_exceeded",
    "detection_failed",
    "disk_full",
    "internal_error",
    "out_of_memory",
    "overloaded",
)
PAIRED = ("matched", "lost", "gained")
COMPARED = ("compared", "skipped", "failed")  # what may come of a frame the canary was tried out on
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
    device : {"cpu", "cuda"}
        Where the network runs: with a GPU its metrics are missed when they are gone.
    """

    def __init__(self, latency_buckets: Sequence[float], device: str = "cpu") -> None:
        self.registry = CollectorRegistry()
        forget_dead_processes()
        sign_in()
        self.build = self._gauge(
            "lynceus_build_info", "Versions, as labels.", ["version", "torch", "device"], "livemax"
        )
        self.build.labels(_version(), torch.__version__, device).set(1)
        self.model = self._gauge(
            "lynceus_model_info", "1 for every version loaded.", ["name", "version", "track", "sha256"], "livemax"
        )
        self.requests = self._counter("lynceus_http_requests", "Requests answered.", ["route", "code"])
        self.in_progress = self._gauge(
            "lynceus_http_requests_in_progress", "Requests that wait for their answer, probes and scrapes apart."
        )
        self.rejected = self._counter("lynceus_rejected", "Requests turned away, by error code.", ["code"])
        self.frame_seconds = self._histogram(
            "lynceus_frame_duration_seconds",
            "From a request's first byte to its answer.",
            latency_buckets,
            ["track", "outcome", "priority"],
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
        self.key_failures = self._counter(
            "lynceus_api_key_load_failures", "Contents of the file of API keys that could not be used."
        )
        self.load_failures = self._counter("lynceus_model_load_failures", "Bundles that could not be loaded.")
        self.canary_frames = self._counter(
            "lynceus_canary_frames", "Frames the canary was tried out on, by what came of it.", ["outcome"]
        )
        for outcome in COMPARED:
            self.canary_frames.labels(outcome)
        self.canary_detections = self._counter(
            "lynceus_canary_detections",
            "Detections of both versions (matched), of stable alone (lost), of the canary alone (gained).",
            ["outcome", "snr"],
        )
        for outcome, snr in product(PAIRED, SNR_BINS):
            self.canary_detections.labels(outcome, snr)
        self.canary_shifts = {
            name: self._histogram(f"lynceus_canary_{name}", text, buckets) for name, text, buckets in CANARY_SHIFTS
        }
        self.queue_tiles = self._gauge("lynceus_queue_tiles", "Tiles that wait for the network.")
        self.queue_oldest = self._gauge(
            "lynceus_queue_oldest_seconds", "Age of the frame that waits longest.", ["priority"], mode="livemax"
        )
        self.stuck = self._gauge(
            "lynceus_inference_stuck_seconds", "Age of the batch that runs longest; 0 if none does.", mode="livemax"
        )
        started = "When the process started, in seconds since 1970."
        self.started = self._gauge("lynceus_process_start_time_seconds", started, mode="livemax")
        self.started.set(time.time())
        self.resident = self._gauge("lynceus_process_resident_bytes", "Memory the server holds.")
        self.gpu_failures = self._counter(
            "lynceus_gpu_sample_failures", "Times a GPU that was there did not tell how it is."
        )
        self._observers: list[Collector] = []

    def count_batch(self, size: int) -> None:
        """Note a batch of so many tiles."""
        self.batch.observe(size)
        self.tiles.inc(size)

    def expect_frames(self, track: str) -> None:
        """Begin the series that the service is judged by at 0: of one that begins at 1 no increase is ever seen."""
        for outcome in OUTCOMES:
            self.frame_seconds.labels(track, outcome, "live")

    def add_observer(self, observer: Collector) -> None:
        """Show what it collects too, as seen by the process that is asked: it is the same for all of them."""
        self._observers.append(observer)

    def exposition(self, queue_tiles: int, queue_oldest: Mapping[str, float], stuck_seconds: float = 0.0) -> bytes:
        """Everything that the processes of this server count, in the text format of Prometheus."""
        self.note_state(queue_tiles, queue_oldest, stuck_seconds)
        forget_dead_processes()
        shown = CollectorRegistry()
        if MULTIPROCESS in os.environ:
            MultiProcessCollector(shown)  # type: ignore[no-untyped-call]
        else:
            shown.register(self.registry)
        for observer in self._observers:
            shown.register(observer)
        return generate_latest(shown)

    def note_state(self, queue_tiles: int, queue_oldest: Mapping[str, float], stuck_seconds: float = 0.0) -> None:
        """Set the gauges of this process, as they are now."""
        self.queue_tiles.set(queue_tiles)
        self.stuck.set(stuck_seconds)
        for priority, seconds in queue_oldest.items():
            self.queue_oldest.labels(priority).set(seconds)
        self.resident.set(_resident_bytes())

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
        if match and not _is_alive(match[1], Path(file.parent, SIGNED_IN.format(pid=match[1]))):
            mark_process_dead(int(match[1]), folder)  # type: ignore[no-untyped-call]


def sign_in() -> None:
    """Leave a note of when this process started, next to its values."""
    folder, pid = os.environ.get(MULTIPROCESS), str(os.getpid())
    if folder:
        Path(folder, SIGNED_IN.format(pid=pid)).write_text(_start_of(pid))


def _is_alive(pid: str, note: Path) -> bool:
    """Whether the process that left the note still runs, and not another one of its number."""
    try:
        return _start_of(pid) == note.read_text() != ""
    except OSError:
        return False


def _start_of(pid: str) -> str:
    """When a process started, in clock ticks; empty if it does not run, or is dead and only not yet waited for."""
    try:
        fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _version() -> str:
    return str(getattr(lynceus, "__version__", "unknown"))


def _resident_bytes() -> int:
    """Resident memory; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()
