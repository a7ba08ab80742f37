"""The work that is timed: a file to a measured list, in process."""

from lynceus.detector import Detector
from lynceus.frame import Frame, read_frame
from lynceus.measure import measure


def detect(detector: Detector, data: bytes) -> int:
    """Decode to measured list, as the service does it, without a server; how many sources."""
    return find(detector, read_frame(data))


def find(detector: Detector, frame: Frame) -> int:
    """Decoded frame to measured list; how many sources."""
    cut = detector.cut(frame)
    found = detector.join(cut, detector.run(cut.all_tiles))
    return len(measure(frame, found[found.scores >= detector.spec.min_score], cut.sky, detector.spec.measure))
