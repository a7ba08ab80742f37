"""What the coarse pass gives and costs, scene by scene: the same frames with it and without, for any bundle."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lynceus.bundle import load_bundle
from lynceus.detections import Detections
from lynceus.detector import Detector
from lynceus.matching import match_centres, pair_iou
from lynceus.sky import SkySpec
from training.scenarios.listings import Place, place_of
from training.scenarios.suite import Split, read_suite, scenario_folder
from training.tiling.exposures import LabelledExposure, read_scenes

LARGE = 64.0  # side of a box from which a source is the coarse pass's business, pixels
FOUND, NOTHING = 0.5, 0.1  # IoU from which a source was found whole, and under which a large box is of nothing
FAINTEST = 5.0  # SNR of sources that are counted


@dataclass(frozen=True)
class PassFigures:
    """What lists say of the frames of a scene; figures of several frames add up.

    Attributes
    ----------
    large, found : int
        Sources over SNR 5 in boxes larger than LARGE that are whole on the frame, and those of them met by FOUND.
    shared : float
        Sum over them of the IoU with the best box.
    pieces : int
        Detections inside their boxes that match no source.
    false_large : int
        Detections larger than LARGE that are of nothing.
    right, wrong, sources : int
        By centres: detections that are sources over SNR 5 and those that are none, and how many sources there are.
    """

    large: int = 0
    found: int = 0
    shared: float = 0.0
    pieces: int = 0
    false_large: int = 0
    right: int = 0
    wrong: int = 0
    sources: int = 0

    def __add__(self, other: "PassFigures") -> "PassFigures":
        return PassFigures(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def f1(self) -> float:
        """Harmonic mean of completeness and reliability."""
        return 2 * self.right / max(self.right + self.wrong + self.sources, 1)

    @property
    def mean_iou(self) -> float:
        """Of the large sources' best boxes."""
        return self.shared / max(self.large, 1)


def compare_passes(
    bundle: Path, folder: Path, binning: int = 4, split: Split = "tuning", only: Collection[str] = ()
) -> dict[str, tuple[PassFigures, PassFigures]]:
    """Figures of each scene without a coarse pass and with one, at the bundle's own threshold.

    Parameters
    ----------
    bundle : Path
        Folder of a version; its own `coarse` is of no matter.
    folder : Path
        Of the suite's frames.
    binning : int
        Of the coarse pass. It costs one part in `binning ** 2` of the fine one's time, and a tile at the least.
    split : {"tuning", "calibration", "test"}
        Which frames.
    only : collection of str
        Names of scenarios; by default all.
    """
    shipped = load_bundle(bundle, workers=1).detector
    told = {}
    for one in read_suite().chosen(only):
        without, with_it = PassFigures(), PassFigures()
        for exposure in read_scenes(scenario_folder(folder, split, one.name), SkySpec()):
            first, second = two_lists(shipped, exposure, binning)
            place = place_of(exposure)
            without += figures_of(first, exposure, place)
            with_it += figures_of(second, exposure, place)
        told[one.name] = (without, with_it)
    return told


def two_lists(detector: Detector, exposure: LabelledExposure, binning: int) -> tuple[Detections, Detections]:
    """What is found without a coarse pass, and with one; the network looks at each tile once."""
    both, fine = (
        Detector(detector.network, detector.spec.model_copy(update={"coarse": coarse}), detector.device)
        for coarse in (binning, 0)
    )
    cut = both.cut(exposure.frame)
    found = both.run(cut.all_tiles)
    without = fine.cut(exposure.frame)
    lists = fine.join(without, found[: len(without.tiles)]), both.join(cut, found)
    first, second = (one[one.scores >= detector.spec.min_score] for one in lists)
    return first, second


def figures_of(detections: Detections, exposure: LabelledExposure, place: Place) -> PassFigures:
    """Count one list, of what is to be published, against the truth of its frame."""
    truth = exposure.truth.boxes
    sides = (truth[:, 2:] - truth[:, :2]).max(axis=1, initial=0)
    height, width = exposure.frame.shape
    whole = ((truth[:, :2] > 0) & (truth[:, 2:] < [width, height])).all(axis=1)
    bright = ~(place.snr < FAINTEST)
    large = bright & (sides > LARGE)
    positions = np.stack(detections.centres, axis=1)
    match = match_centres(positions, detections.scores, place.positions, np.maximum(place.fwhm, 1.6), ~bright)
    own = (detections.boxes[:, 2:] - detections.boxes[:, :2]).max(axis=1, initial=0)
    best = _iou(truth[large & whole], detections.boxes).max(axis=1, initial=0)
    of_any = _iou(detections.boxes, truth[sides > LARGE / 2]).max(axis=1, initial=0)
    return PassFigures(
        large=len(best),
        found=int((best > FOUND).sum()),
        shared=float(best.sum()),
        pieces=int((_inside(positions + 0.5, truth[large]) & match.wrong).sum()),
        false_large=int(((own > LARGE) & (of_any < NOTHING)).sum()),
        right=int(match.right.sum()),
        wrong=int(match.wrong.sum()),
        sources=int(bright.sum()),
    )


def passes_table(told: Mapping[str, tuple[PassFigures, PassFigures]]) -> str:
    """The figures in Markdown: without and with the coarse pass."""
    lines = ["| scene | large | found whole | mean IoU | pieces | false large | F1 |", "|---|---|---|---|---|---|---|"]
    for name, (without, with_it) in told.items():
        pairs = [
            f"{first:{how}} > {second:{how}}"
            for first, second, how in (
                (without.found, with_it.found, "d"),
                (without.mean_iou, with_it.mean_iou, ".2f"),
                (without.pieces, with_it.pieces, "d"),
                (without.false_large, with_it.false_large, "d"),
                (without.f1, with_it.f1, ".3f"),
            )
        ]
        lines.append(f"| {name} | {without.large} | {' | '.join(pairs)} |")
    return "\n".join(lines) + "\n"


def _iou(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.floating]:
    """Of every box of one list (N, 4) with every box of another (M, 4), shape (N, M)."""
    rows, columns = np.indices((len(first), len(second))).reshape(2, -1)
    return np.asarray(pair_iou(first[rows].astype(np.float64), second[columns].astype(np.float64))).reshape(
        len(first), len(second)
    )


def _inside(positions: NDArray[np.floating], boxes: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which positions (N, 2), in edge coordinates, lie in one of the boxes (M, 4)."""
    low, high = boxes[None, :, :2], boxes[None, :, 2:]
    inside = np.asarray(((positions[:, None] > low) & (positions[:, None] < high)).all(axis=2))
    return np.asarray(inside.any(axis=1))
