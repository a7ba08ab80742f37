"""How the variants of a study are scored: on frames that none was trained on, all by the same truth."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lynceus.detector import Detector, DetectorSpec
from lynceus.frame import Frame
from lynceus.measure import MeasureSpec
from lynceus.network import Network
from lynceus.overlay import Marks, draw_marks
from lynceus.sky import SkySpec, estimate_sky
from training.recipe import Recipe
from training.scoring.evaluate import best_threshold, score_exposures
from training.scoring.report import Report
from training.scoring.worst import LINES, fates_of
from training.tiling.exposures import LabelledExposure, TruthSpec, read_exposures

SIDE = 512  # pixels of the part of a frame that is drawn
PICTURE = 768  # pixels of the picture


@dataclass(frozen=True)
class HeldOut:
    """Exposures that were held back from training.

    Attributes
    ----------
    dataset : Path
        That they are of.
    keys : tuple of str
        Those to score on.
    validation : tuple of str
        Those to choose the threshold on.
    truth : Path or None
        Folder of exact truths; None for the catalogues.
    labelled : TruthSpec
        How catalogues become truth.
    measure : MeasureSpec
        The box rule.
    """

    dataset: Path
    keys: tuple[str, ...]
    validation: tuple[str, ...]
    truth: Path | None
    labelled: TruthSpec
    measure: MeasureSpec

    def exposures(self, sky: SkySpec, keys: Collection[str]) -> Iterator[LabelledExposure]:
        """Some of them, one at a time."""
        return read_exposures(self.dataset, sky, self.measure, self.labelled, keys=keys, truth=self.truth)


def score(network: Network, recipe: Recipe, held: HeldOut, overlay: Path | None = None) -> dict[str, float | None]:
    """Score a network as a version would be: its threshold chosen on other frames than its figures.

    Parameters
    ----------
    network : Network
        In evaluation mode.
    recipe : Recipe
        Says how frames are made ready for it and how its tiles are merged.
    held : HeldOut
        The frames.
    overlay : Path or None
        Where to draw a part of the first of them, with what was found.

    Returns
    -------
    dict of str to float or None
        Pooled over the frames; None for a figure that is not defined.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    spec = DetectorSpec(sky=recipe.sky, normalise=recipe.normalise, tile=recipe.tile, merge=recipe.merge)
    detector = Detector(network.to(device), spec, device)
    min_score, _ = best_threshold(detector, held.exposures(recipe.sky, held.validation))
    report = score_exposures(detector, held.exposures(recipe.sky, held.keys), min_score, worst=0)
    if overlay is not None:
        exposure = next(held.exposures(recipe.sky, held.keys[:1]))
        overlay.parent.mkdir(parents=True, exist_ok=True)
        draw_found(detector, exposure, min_score, overlay)
    return figures_of(report)


def figures_of(report: Report) -> dict[str, float | None]:
    """What studies compare."""
    names = ("map_50", "map_75", "map", "best_iou_per_gt", "best_iou_per_prediction", "precision", "recall", "f1")
    figures: dict[str, float | None] = {name: getattr(report, name) for name in names}
    return {**figures, "mar": report.mar["at_1.0"], "min_score": report.min_score}


def draw_found(detector: Detector, exposure: LabelledExposure, min_score: float, path: Path) -> None:
    """Draw the middle of a frame with what was matched, missed, extra and ignored in it."""
    corner = [max(pixels - SIDE, 0) // 2 for pixels in exposure.frame.shape]
    rows, columns = (slice(start, start + SIDE) for start in corner)
    frame = Frame(np.ascontiguousarray(exposure.frame.pixels[rows, columns]), exposure.frame.facts)
    found = detector.detect(frame)
    boxes = exposure.truth.boxes - np.array([*corner[::-1], *corner[::-1]])
    height, width = frame.shape
    inside = (boxes[:, 2:] > 0).all(axis=1) & (boxes[:, 0] < width) & (boxes[:, 1] < height)
    fates = fates_of(found[found.scores >= min_score], boxes[inside], exposure.truth.ignored[inside])
    marks = [Marks(some, *LINES[name]) for name, some in fates.items()]
    picture = draw_marks(frame, estimate_sky(frame, detector.spec.sky), marks, least=PICTURE, most=PICTURE)
    picture.save(path, optimize=True)
