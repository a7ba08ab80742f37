"""What all parts are given: the frame, the bundle, how often, and where to tell."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console

from lynceus.bundle import load_bundle
from lynceus.detector import Detector
from lynceus.precision import Precision
from tests.bench.frames import bench_frame
from tests.bench.history import machine


@dataclass(frozen=True)
class Bench:
    """One run of the bench.

    Attributes
    ----------
    folder : Path
        For frames, logs and the history.
    out : Path
        For charts and their figures.
    bundle : Path
        The version that is timed.
    device : str
        Where its network runs: cpu or cuda.
    precision : str
        Of its network's arithmetic (see `chosen_dtype`).
    rounds : int
        That count.
    side : int
        Of the frame, in pixels.
    console : Console
        Where progress is told.
    """

    folder: Path
    out: Path
    bundle: Path
    device: str
    precision: Precision
    rounds: int
    side: int
    console: Console

    @cached_property
    def frame(self) -> bytes:
        """The frame as a FITS file."""
        return bench_frame(self.folder, self.side)

    @property
    def cores(self) -> int:
        """That this process may use."""
        return int(str(machine()["cores"]))

    def load(self, workers: int | None = None) -> Detector:
        """The detector, by default with a worker for each core."""
        return load_bundle(self.bundle, self.device, workers or self.cores, self.precision).detector
