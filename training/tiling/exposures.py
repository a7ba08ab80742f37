"""Frames laid under their truth, one at a time: what tiles are cut from and what a network is scored on."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from lynceus.box_rules import BoxRule
from lynceus.detections import Floats
from lynceus.errors import LynceusError
from lynceus.frame import Frame, read_frame
from lynceus.measure import MeasureSpec
from lynceus.sky import Sky, SkySpec, estimate_sky
from lynceus.spec import Spec
from lynceus.tables import read_catalogue
from lynceus.trails import find_trails
from lynceus.truth import IGNORE_FLAGS, Truth, truth_of
from training.curation.dataset import Exposure, read_dataset
from training.errors import TrainingError
from training.scenes.artefacts import trail_mask
from training.tiling.sizes import measured_sizes
from training.tiling.teacher import with_candidates
from training.tiling.trails import without_trails

EDGES = ("x_min", "y_min", "x_max", "y_max")
NEEDED = ("x", "y", *EDGES, "ignored")
TRAILED = "TRACE"
HARMLESS = ("OK", "ESO", "COMET", "GALAXY", "BINARY", TRAILED)  # trails are found and hidden
log = logging.getLogger(__name__)
Failed = Callable[[str, Exception], None]


class TruthSpec(Spec):
    """How a catalogue becomes truth.

    Attributes
    ----------
    box_rule : {"bundle", "catalogue"}
        What a box means; see `lynceus.box_rules.boxes_of`.
    sizes : {"measured", "catalogue"}
        By the bundle's rule: whether the size of a source is measured on the frame, or read from the catalogue.
    ignore_flags : int
        Rows with any of these bits in FLAGS are flagged.
    flagged : {"ignore", "drop"}
        Whether flagged rows take no loss, or are left out and count as background.
    unlisted : bool
        Whether what `sep` sees and the catalogue lacks takes no loss; otherwise it is background.
    teacher : str
        Folder `<name>/<version>/` of a bundle: what it sees and the catalogue lacks takes no loss either.
    labels : tuple of str
        An exposure is used if all of its labels are among these, in whatever case. On those labelled TRACE trails are
        looked for, and hidden.
    """

    box_rule: BoxRule = "bundle"
    sizes: Literal["measured", "catalogue"] = "measured"
    ignore_flags: int = IGNORE_FLAGS
    flagged: Literal["ignore", "drop"] = "ignore"
    unlisted: bool = True
    teacher: str = ""
    labels: tuple[str, ...] = HARMLESS

    def accepts(self, labels: Collection[str]) -> bool:
        """Whether a frame with these labels is used."""
        return {label.upper() for label in labels} <= {label.upper() for label in self.labels}


@dataclass(frozen=True, eq=False)
class LabelledExposure:
    """A frame, its sky and its truth.

    Attributes
    ----------
    key : str
        Names the exposure in its data set.
    frame : Frame
        Of shape (H, W).
    sky : Sky
        Of the frame.
    truth : Truth
        Of the frame, M sources.
    hidden : ndarray, shape (H, W), bool, or None
        True where training takes no loss, as on a satellite's trail; what is detected there is scored as ever.

    Raises
    ------
    ValueError
        If the shapes do not agree.
    """

    key: str
    frame: Frame
    sky: Sky
    truth: Truth
    hidden: NDArray[np.bool_] | None = field(default=None)

    def __post_init__(self) -> None:
        if self.sky.shape != self.frame.shape:
            raise ValueError("the sky must be that of the frame")
        if self.hidden is not None and (self.hidden.shape != self.frame.shape or self.hidden.dtype != np.bool_):
            raise ValueError(f"hidden must be boolean with shape {self.frame.shape}")


def read_exposures(
    dataset: Path,
    sky: SkySpec,
    measure: MeasureSpec,
    spec: TruthSpec,
    keys: Collection[str] | None = None,
    truth: Path | None = None,
    failed: Failed | None = None,
) -> Iterator[LabelledExposure]:
    """Read the exposures of a data set, one at a time.

    Parameters
    ----------
    dataset : Path
        Folder that `curate` made.
    sky : SkySpec
        How the sky is estimated.
    measure : MeasureSpec
        The box rule of the bundle.
    spec : TruthSpec
        How a catalogue becomes truth, and which labels are accepted.
    keys : collection of str or None
        Only these exposures.
    truth : Path or None
        Folder of exact truths `<key>.ecsv` to use in the place of the catalogues.
    failed : callable or None
        Is told the key and the error of an exposure that cannot be read; by default it goes to the log.

    Yields
    ------
    LabelledExposure
        In the order of the data set.

    Raises
    ------
    TrainingError
        If the folder is no data set.
    """
    for exposure in accepted(read_dataset(dataset), spec, keys):
        try:
            labelled = label_exposure(exposure, sky, measure, spec, truth)
        except (LynceusError, OSError) as error:
            (failed or _to_log)(exposure.key, error)
            continue
        yield labelled


def read_scenes(
    folder: Path,
    sky: SkySpec,
    keys: Collection[str] | None = None,
    failed: Failed | None = None,
) -> Iterator[LabelledExposure]:
    """Read a simulated set, `00000.fits` and its exact truth `00000.ecsv` and so on, one frame at a time.

    Parameters
    ----------
    folder : Path
        Of the set.
    sky : SkySpec
        How the sky is estimated.
    keys : collection of str or None
        Only these, as `00000`.
    failed : callable or None
        As in `read_exposures`.

    Raises
    ------
    TrainingError
        If there is no frame with its truth in the folder.
    """
    paths = [path for path in sorted(folder.glob("*.fits")) if path.with_suffix(".ecsv").exists()]
    if not paths:
        raise TrainingError(f"{folder} holds no simulated frames: 00000.fits with its truth 00000.ecsv, and so on")
    for path in paths:
        if keys is not None and path.stem not in keys:
            continue
        try:
            scene = exact_exposure(path, path.with_suffix(".ecsv"), sky)
        except (LynceusError, OSError) as error:
            (failed or _to_log)(path.stem, error)
            continue
        yield scene


def accepted(exposures: Collection[Exposure], spec: TruthSpec, keys: Collection[str] | None = None) -> list[Exposure]:
    """The exposures whose labels are accepted, of those asked for."""
    return [one for one in exposures if spec.accepts(one.labels) and (keys is None or one.key in keys)]


def label_exposure(
    exposure: Exposure, sky: SkySpec, measure: MeasureSpec, spec: TruthSpec, truth: Path | None = None
) -> LabelledExposure:
    """Read one exposure of a data set; `truth` is a folder of exact truths, as in `read_exposures`.

    Raises
    ------
    LynceusError
        If the frame, its catalogue or its truth cannot be used.
    """
    if truth is not None:
        return exact_exposure(exposure.frame, truth / f"{exposure.key}.ecsv", sky, exposure.key)
    if exposure.catalogue is None:
        raise TrainingError(f"{exposure.key} has no catalogue")
    trailed = TRAILED in map(str.upper, exposure.labels)
    return exposure_of(exposure.frame, exposure.catalogue, sky, measure, spec, exposure.key, trailed)


def exposure_of(
    frame: Path,
    catalogue: Path,
    sky: SkySpec,
    measure: MeasureSpec,
    spec: TruthSpec | None = None,
    key: str = "",
    trailed: bool = False,
) -> LabelledExposure:
    """Read a frame and lay its catalogue over it.

    Parameters
    ----------
    frame, catalogue : Path
        In any format that `lynceus` reads.
    sky : SkySpec
        How the sky is estimated.
    measure : MeasureSpec
        The box rule of the bundle.
    spec : TruthSpec or None
        How the catalogue becomes truth; the defaults where it is None. Labels are not looked at.
    key : str
        Names the exposure; by default the frame's name up to its first dot.
    trailed : bool
        Whether trails are looked for, and hidden.

    Raises
    ------
    FrameError, CatalogueError
        If the one or the other cannot be used.

    Notes
    -----
    Where trails are hidden, sources on them are ignored, and rows that list a trail as a source are left out.
    """
    spec = spec or TruthSpec()
    exposed = read_frame(frame.read_bytes())
    under = estimate_sky(exposed, sky)
    trails = find_trails(exposed, under) if trailed else []
    hidden = _hidden(trails, exposed)
    truth = truth_of(
        read_catalogue(catalogue.read_bytes()),
        exposed if hidden is None else exposed.masked(hidden),
        under,
        measure,
        rule=spec.box_rule,
        ignore_flags=spec.ignore_flags,
        flagged=spec.flagged,
        unlisted=spec.unlisted,
    )
    if hidden is not None:
        truth = without_trails(truth, hidden, trails)
    if spec.box_rule == "bundle" and spec.sizes == "measured":
        truth = measured_sizes(truth, exposed, under, measure)
    if spec.teacher:
        truth = with_candidates(truth, exposed, Path(spec.teacher))
    return LabelledExposure(key or frame.name.partition(".")[0], exposed, under, truth, hidden)


def exact_exposure(frame: Path, truth: Path, sky: SkySpec, key: str = "") -> LabelledExposure:
    """Read a simulated frame and its exact truth, trails hidden.

    Parameters
    ----------
    frame : Path
        A FITS file.
    truth : Path
        An ECSV table with `x, y` (0-based centres), `x_min .. y_max` (edges), `ignored`, and, where they are known,
        `snr` and `kind`; `trails` in its header are lines `x0, y0, x1, y1, width`.
    sky : SkySpec
        How the sky is estimated.
    key : str
        Names the exposure; by default the frame's name up to its first dot.

    Raises
    ------
    FrameError
        If the frame cannot be used.
    TrainingError
        If the truth is missing or lacks a column.
    """
    exposed = read_frame(frame.read_bytes())
    table = _read_truth(truth)
    hidden = _hidden(table.meta.get("trails", ()), exposed)
    name = key or frame.name.partition(".")[0]
    return LabelledExposure(name, exposed, estimate_sky(exposed, sky), exact_truth(table, exposed.shape), hidden)


def exact_truth(table: Table, shape: tuple[int, int]) -> Truth:
    """The truth of a simulated frame of this shape (H, W); boxes are cut at its edges, those beyond left out."""
    height, width = shape
    boxes = np.stack([_numbers(table, edge) for edge in EDGES], axis=1).reshape(-1, 4)
    boxes = np.clip(boxes, 0, [width, height, width, height])
    keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    known = "snr" in table.colnames
    return Truth(
        boxes[keep],
        np.asarray(table["ignored"], bool)[keep],
        _numbers(table, "snr")[keep] if known else np.full(int(keep.sum()), np.nan),
        "snr" if known else "none",
        (),
        int(keep.sum()),
        (_numbers(table, "x")[keep], _numbers(table, "y")[keep]),
        tuple(str(kind) for kind in table["kind"][keep]) if "kind" in table.colnames else None,
    )


def _read_truth(path: Path) -> Table:
    if not path.exists():
        raise TrainingError(f"there is no truth {path.name} in {path.parent}")
    try:
        table = Table.read(path, format="ascii.ecsv")
    except Exception as error:
        raise TrainingError(f"{path} cannot be read as an ECSV table ({type(error).__name__})") from error
    missing = [name for name in NEEDED if name not in table.colnames]
    if missing:
        raise TrainingError(f"{path} is no exact truth: it lacks {', '.join(missing)}")
    return table


def _numbers(table: Table, name: str) -> Floats:
    return np.asarray(np.ma.filled(table[name], np.nan), np.float64)


def _hidden(trails: Sequence[Sequence[float]], frame: Frame) -> NDArray[np.bool_] | None:
    """Where the trails are; None without any, or where they would leave nothing of the frame."""
    hidden = trail_mask(trails, frame.shape) if trails else None
    return None if hidden is None or (hidden | frame.mask).all() else hidden


def _to_log(key: str, error: Exception) -> None:
    log.warning("%s was left out: %s", key, error)
