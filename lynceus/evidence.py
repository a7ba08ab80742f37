"""What was seen of two versions, frame by frame: plain values that decisions and reports are made from."""

from typing import Any, Literal

from lynceus.spec import Spec


class Both(Spec):
    """A figure of both versions."""

    stable: float
    canary: float


class Version(Spec):
    """A version of a detector, as a server names it."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Stars(Spec):
    """Planted stars of some range of brightness: how many there are, and how many of them each version found."""

    planted: int
    stable: int
    canary: int


class Offsets(Spec):
    """How far box centres lie from where the sources are.

    Attributes
    ----------
    reference : {"planted stars", "measured centroids"}
        What tells where the sources are.
    count : int
        Sources that both versions found.
    distance, x, y : Both
        Median distance, and median of the signed offsets (box less source), in pixels.
    """

    reference: Literal["planted stars", "measured centroids"]
    count: int
    distance: Both
    x: Both
    y: Both


class Scores(Spec):
    """What one version scored against the catalogue of a frame; None where the catalogue lists nothing."""

    matched: int
    missed: int
    extra: int
    map_50: float | None
    best_iou_per_gt: float | None

    @property
    def listed(self) -> int:
        """Sources that count."""
        return self.matched + self.missed


class Scored(Spec):
    """The scores of both versions on one frame."""

    stable: Scores
    canary: Scores


class Times(Spec):
    """Milliseconds that both versions took for a frame, the fastest of several requests.

    Attributes
    ----------
    client : Both
        By the client's clock, transfer and waiting included.
    server : Both or None
        By the servers' own clocks, without the time in the queue; None where a server does not tell.
    infer : Both or None
        Of that, the network alone.
    """

    client: Both
    server: Both | None = None
    infer: Both | None = None


class FrameEvidence(Spec):
    """What was seen on one frame.

    Attributes
    ----------
    frame : str
        Its file name.
    pairing : dict
        The summary of a `Pairing`: counts by SNR, median shifts.
    faint, bright : Stars or None
        Planted stars; None where none could be planted.
    offsets : Offsets or None
        Of the boxes; None where both versions share too few sources.
    inverted : Both or None
        Detections in the frame mirrored about its sky, all of them false.
    scores : Scored or None
        Against the frame's catalogue, where it has one.
    times : Times
        Of the frame itself, or of the one with planted stars.
    notes : tuple of str
        What could not be looked at, and why.
    """

    frame: str
    pairing: dict[str, Any]
    faint: Stars | None = None
    bright: Stars | None = None
    offsets: Offsets | None = None
    inverted: Both | None = None
    scores: Scored | None = None
    times: Times
    notes: tuple[str, ...] = ()


class DarkEvidence(Spec):
    """Detections on a frame that shows no sky, all of them false."""

    frame: str
    found: Both


class Failure(Spec):
    """A frame that could not be looked at, and why."""

    frame: str
    reason: str


class Evidence(Spec):
    """All that a decision is made from.

    Attributes
    ----------
    frames : tuple of FrameEvidence
        Those that both versions answered.
    darks : tuple of DarkEvidence
        The same of frames without sky.
    failures : tuple of Failure
        Frames that the canary alone failed on.
    left_out : tuple of Failure
        Frames that say nothing about the canary: both refused them, or stable did.
    """

    frames: tuple[FrameEvidence, ...] = ()
    darks: tuple[DarkEvidence, ...] = ()
    failures: tuple[Failure, ...] = ()
    left_out: tuple[Failure, ...] = ()
