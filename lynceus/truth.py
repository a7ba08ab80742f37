"""A catalogue laid over a frame: the sources a list of detections is scored against, or a list of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lynceus.box_rules import BoxRule, boxes_of, positions_of
from lynceus.detections import CENTRE_TO_EDGE, Detections, Floats, box_about
from lynceus.frame import Frame
from lynceus.sky import Sky, SkySpec, estimate_sky
from lynceus.sources import Flag
from lynceus.tables import Catalogue, read_catalogue

if TYPE_CHECKING:  # `measure` needs `sep`; reading a catalogue does not
    from lynceus.measure import MeasureSpec

__all__ = ["BoxRule", "Catalogue", "Truth", "listed_detections", "positions_of", "read_catalogue", "truth_of"]

BrightnessKind = Literal["snr", "magnitude", "none"]
IGNORE_FLAGS = 8 | 16 | 32 | 64 | 128  # truncated, incomplete, and the three kinds of failure
LARGEST_FLAGS = 2**31
SATURATED_SIDE = 4.0  # the box of a saturated row is trusted up to so many median sides
SAME_POSITION = 0.01  # pixels
KINDS = ("KIND", "CLASS")
LEAST_STAR = 0.5  # of SExtractor's CLASS_STAR, from which a source is called a star
SCORES = ("SCORE", "PROB", "PROBABILITY", "CONFIDENCE")
SNRS = ("SNR", "SNR_WIN")
FLUXES = (
    ("FLUX_AUTO", "FLUXERR_AUTO"), ("FLUX", "FLUX_ERR"), ("FLUX_BEST", "FLUXERR_BEST"), ("FLUX_ISO", "FLUXERR_ISO"),
    ("FLUX_APER", "FLUXERR_APER"),
)  # fmt: skip
MAGNITUDES = ("MAG_CALIB", "MAG_AUTO")
SEP_FLAGS = {1: Flag.BLENDED, 2: Flag.TRUNCATED}  # what sep calls 1 and 2 in its column `flag`


@dataclass(frozen=True, eq=False)
class Truth:
    """The sources a list is scored against.

    Attributes
    ----------
    boxes : ndarray, shape (M, 4)
        Edge coordinates; first those of the catalogue, then the unlisted candidates.
    ignored : ndarray, shape (M,), bool
        Sources that count neither as found nor as missed: flagged rows, rows without size, unlisted candidates.
    brightness : ndarray, shape (M,)
        For curves; NaN where unknown.
    brightness_kind : {"snr", "magnitude", "none"}
        What it is.
    warnings : tuple of str
        What was odd, in the user's words.
    listed : int
        Rows of the catalogue that lie on the frame; the others of the M are unlisted candidates.
    positions : (ndarray, ndarray) or None
        `x, y` of the sources, 0-based pixel centres, where these are not the box centres: a box ends at the frame's
        edge.
    kinds : tuple of str or None
        What each of the M sources is, as "star" or "galaxy"; "" where that is not known; None where no source's is.

    Raises
    ------
    ValueError
        If the shapes do not agree, or a box has no area or is not finite.
    """

    boxes: Floats
    ignored: NDArray[np.bool_]
    brightness: Floats
    brightness_kind: BrightnessKind
    warnings: tuple[str, ...]
    listed: int
    positions: tuple[Floats, Floats] | None = None
    kinds: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4):
            raise ValueError(f"boxes must have shape (M, 4), not {self.boxes.shape}")
        if self.ignored.shape != (count,) or self.brightness.shape != (count,) or not 0 <= self.listed <= count:
            raise ValueError(f"{count} boxes need as many values of everything else")
        if self.kinds is not None and len(self.kinds) != count:
            raise ValueError(f"{count} boxes need as many kinds, or none at all")
        if not (self.boxes[:, 2:] > self.boxes[:, :2]).all() or not np.isfinite(self.boxes).all():
            raise ValueError("every box needs x_min < x_max and y_min < y_max, all finite")

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def centres(self) -> tuple[Floats, Floats]:
        """Where the sources are, `x, y` as 0-based pixel centres, two arrays of shape (M,)."""
        if self.positions is not None:
            return self.positions
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        x, y = ((low + high) / 2 - CENTRE_TO_EDGE).T
        return x, y


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a catalogue that lie on a frame: N of them, as a catalogue of their own."""

    catalogue: Catalogue
    x: Floats
    y: Floats
    boxes: Floats  # (N, 4), NaN where a row has no size
    warnings: list[str]

    @property
    def sized(self) -> NDArray[np.bool_]:
        return np.asarray(np.isfinite(self.boxes).all(axis=1))

    @property
    def sides(self) -> Floats:
        """Mean side of each box in pixels, (N,)."""
        return np.asarray((self.boxes[:, 2:] - self.boxes[:, :2]).mean(axis=1))


def truth_of(
    catalogue: Catalogue,
    frame: Frame,
    sky: Sky,
    measure: "MeasureSpec",
    *,
    rule: BoxRule = "bundle",
    ignore_flags: int = IGNORE_FLAGS,
    flagged: Literal["ignore", "drop"] = "ignore",
    unlisted: bool = True,
) -> Truth:
    """Lay a catalogue over its frame.

    Parameters
    ----------
    catalogue : Catalogue
        Of this frame.
    frame : Frame
        Rows whose centre is not on it are left out, and counted in a warning.
    sky : Sky
        Of the frame.
    measure : MeasureSpec
        The bundle's box rule.
    rule : {"bundle", "catalogue"}
        What a box means; see `lynceus.box_rules.boxes_of`.
    ignore_flags : int
        Rows with any of these bits in FLAGS are flagged.
    flagged : {"ignore", "drop"}
        What becomes of flagged rows: they are ignored, or left out, so that their light counts as background (or, with
        `unlisted`, as that of a candidate).
    unlisted : bool
        Add what `sep` sees and the catalogue lacks, to be ignored.

    Returns
    -------
    Truth
        The catalogue's rows in their order, doubled ones once, then the unlisted candidates.

    Raises
    ------
    CatalogueError
        If the catalogue has no position that can be used.

    Notes
    -----
    Ignored are: rows with a bit of `ignore_flags`, unless they are dropped; saturated ones (4) only where their box
    cannot be trusted, because they have no shape of their own or a box over 4 times the median side; rows without a
    size, which get a box of the median side, or of the frame's seeing where no row has one; rows on masked pixels; and
    rows that a column `ignored` marks.
    """
    rows = _single(_on_frame(catalogue, frame, measure, rule))
    if flagged == "drop":
        rows = _without_flagged(rows, ignore_flags)
    ignored = _ignored(rows, frame, ignore_flags)
    boxes, nominal = _with_nominal(rows, frame, sky, measure)
    warnings = [*rows.warnings, *nominal]
    brightness, kind = _brightness(rows.catalogue)
    x, y, listed = rows.x, rows.y, len(rows.x)
    if unlisted:
        more_boxes, more_x, more_y, missing = _unlisted(frame, sky, measure, x, y, boxes)
        boxes = np.concatenate([boxes, more_boxes])
        x, y = np.concatenate([x, more_x]), np.concatenate([y, more_y])
        warnings += missing
    added = len(boxes) - listed
    kinds = _kinds(rows.catalogue)
    return Truth(
        boxes,
        np.concatenate([ignored, np.ones(added, bool)]),
        np.concatenate([brightness, np.full(added, np.nan)]),
        kind,
        tuple(dict.fromkeys(warnings)),
        listed,
        (x, y),
        None if kinds is None else (*kinds, *[""] * added),
    )


def listed_detections(catalogue: Catalogue, frame: Frame, measure: "MeasureSpec", *, rule: BoxRule) -> Detections:
    """Another tool's list as detections.

    Parameters
    ----------
    catalogue : Catalogue
        What the tool found on this frame.
    frame : Frame
        Rows whose centre is not on it are left out.
    measure : MeasureSpec
        The bundle's box rule.
    rule : {"bundle", "catalogue"}
        What a box means, as in `truth_of`.

    Returns
    -------
    Detections
        In the order of the list. The score is SCORE, PROB, PROBABILITY or CONFIDENCE where one of them lies in 0..1;
        else the rank by signal to noise, flux or magnitude, the brightest 1; else 1.

    Raises
    ------
    CatalogueError
        If the list has no position that can be used.
    """
    rows = _on_frame(catalogue, frame, measure, rule)
    boxes, _ = _with_nominal(rows, frame, None, measure)
    scores = _scores(rows.catalogue)
    return Detections(boxes.astype(np.float32), scores.astype(np.float32), np.zeros(len(boxes), np.int64))


def _on_frame(catalogue: Catalogue, frame: Frame, measure: "MeasureSpec", rule: BoxRule) -> _Rows:
    """The rows whose centre is on the frame, with their boxes."""
    x, y = positions_of(catalogue, frame)
    height, width = frame.shape
    placed = np.isfinite(x) & np.isfinite(y)
    with np.errstate(invalid="ignore"):
        inside = (np.abs(x - (width - 1) / 2) <= width / 2) & (np.abs(y - (height - 1) / 2) <= height / 2)
    part = Catalogue(_picked(catalogue.columns, inside), catalogue.format, catalogue.units)
    warnings = list(catalogue.warnings)
    if not placed.all():
        warnings.append(f"{np.sum(~placed)} of {len(x)} rows have no position on the frame's plane and were left out")
    if np.sum(placed & ~inside):
        warnings.append(f"{np.sum(placed & ~inside)} of {len(x)} rows lie outside the frame and were left out")
    if len(x) and not inside.any():
        warnings.append("not one row of the catalogue lies on the frame")
    x, y = x[inside], y[inside]
    return _Rows(part, x, y, boxes_of(part, frame, x, y, measure, rule), warnings)


def _picked(columns: Mapping[str, NDArray[np.generic]], rows: NDArray[np.bool_]) -> dict[str, NDArray[np.generic]]:
    return {name: values[rows] for name, values in columns.items()}


def _single(rows: _Rows) -> _Rows:
    """Rows at one position once: the first of them."""
    cells = np.stack([np.rint(rows.x / SAME_POSITION), np.rint(rows.y / SAME_POSITION)], axis=1)
    _, first = np.unique(cells, axis=0, return_index=True)
    first.sort()
    keep = np.zeros(len(rows.x), bool)
    keep[first] = True
    positions = np.stack([rows.x[first], rows.y[first]], axis=1)
    for one, other in sorted(cKDTree(positions).query_pairs(SAME_POSITION)) if len(first) > 1 else ():
        keep[first[other]] &= not keep[first[one]]
    if keep.all():
        return rows
    return _chosen(rows, keep, f"{np.sum(~keep)} rows repeat the position of another and were left out")


def _without_flagged(rows: _Rows, flags: int) -> _Rows:
    """Rows without any of these bits in FLAGS."""
    keep = _flags(rows.catalogue, len(rows.x)) & flags == 0
    if keep.all():
        return rows
    return _chosen(rows, keep, f"{np.sum(~keep)} flagged rows were left out")


def _chosen(rows: _Rows, keep: NDArray[np.bool_], warning: str) -> _Rows:
    part = Catalogue(_picked(rows.catalogue.columns, keep), rows.catalogue.format, rows.catalogue.units)
    return _Rows(part, rows.x[keep], rows.y[keep], rows.boxes[keep], [*rows.warnings, warning])


def _ignored(rows: _Rows, frame: Frame, ignore_flags: int) -> NDArray[np.bool_]:
    """Rows that count neither as found nor as missed."""
    height, width = frame.shape
    columns = np.clip(np.rint(rows.x).astype(int), 0, width - 1)
    lines = np.clip(np.rint(rows.y).astype(int), 0, height - 1)
    hidden = np.isnan(frame.pixels[lines, columns])
    flags = _flags(rows.catalogue, len(rows.x))
    sides = rows.sides
    with np.errstate(invalid="ignore"):
        wide = sides > SATURATED_SIDE * np.median(sides[rows.sized]) if rows.sized.any() else np.zeros(len(sides), bool)
    mistrusted = (flags & Flag.SATURATED != 0) & wide
    marked = rows.catalogue.number("IGNORED")
    told = np.zeros(len(sides), bool) if marked is None else np.nan_to_num(marked) != 0
    return np.asarray((flags & ignore_flags != 0) | mistrusted | ~rows.sized | hidden | told)


def _flags(catalogue: Catalogue, count: int) -> NDArray[np.int64]:
    """SExtractor's FLAGS; those that `sep` calls `flag` are translated."""
    values = catalogue.number("FLAGS", "FLAG")
    if values is None:
        return np.zeros(count, np.int64)
    flags = np.asarray(np.clip(np.nan_to_num(values), 0, LARGEST_FLAGS).astype(np.int64))
    if "FLAGS" in catalogue.columns or "NPIX" not in catalogue.columns:
        return flags
    translated = np.zeros(count, np.int64)
    for bit, ours in SEP_FLAGS.items():
        translated |= np.where(flags & bit, int(ours), 0)
    return translated


def _with_nominal(rows: _Rows, frame: Frame, sky: Sky | None, measure: "MeasureSpec") -> tuple[Floats, list[str]]:
    """Boxes for all rows: those without a size get the median side, or that of the frame's seeing, or the least."""
    sized = rows.sized
    if sized.all():
        return rows.boxes, []
    height, width = frame.shape
    if sized.any():
        side = float(np.median(rows.sides[sized]))
    else:
        side = _seeing_side(frame, sky or estimate_sky(frame, SkySpec()), measure)
    sides = np.full(len(rows.x), max(side, measure.min_box))
    nominal = np.clip(box_about(rows.x, rows.y, sides, sides), 0.0, np.array([width, height, width, height], float))
    text = f"{np.sum(~sized)} of {len(sized)} rows have no size and are ignored: boxes need FWHM_IMAGE or FWHM_WORLD, "
    warning = text + "A_IMAGE, B_IMAGE and THETA_IMAGE, or FLUX_RADIUS"
    return np.where(sized[:, None], rows.boxes, nominal), [warning]


def _seeing_side(frame: Frame, sky: Sky, measure: "MeasureSpec") -> float:
    from lynceus.unlisted import seeing  # needs sep, which reading a catalogue does not

    return measure.box_scale * (seeing(frame, sky, measure) or 0.0)


def _unlisted(
    frame: Frame, sky: Sky, measure: "MeasureSpec", x: Floats, y: Floats, boxes: Floats
) -> tuple[Floats, Floats, Floats, list[str]]:
    """Boxes and positions of what the catalogue lacks, and why there are none if sep failed."""
    from lynceus.unlisted import find_peaks, peak_boxes, unlisted_peaks

    peaks, warning = find_peaks(frame, sky)
    peaks = unlisted_peaks(peaks, measure, x, y, boxes)
    found = peak_boxes(peaks, measure, frame.shape)
    sound = np.isfinite(found).all(axis=1)
    return found[sound], peaks.x[sound], peaks.y[sound], [warning] if warning else []


def _kinds(catalogue: Catalogue) -> tuple[str, ...] | None:
    """What the rows are: by a column of words, or else by SExtractor's star-galaxy classifier."""
    for name in KINDS:
        words = catalogue.columns.get(name)
        if words is not None and (words.dtype.kind != "f" or not len(words)):
            return tuple(str(word).strip().lower() for word in words)
    stellarity = catalogue.number("CLASS_STAR")
    if stellarity is None:
        return None
    return tuple(
        "" if np.isnan(value) else "star" if value >= LEAST_STAR else "galaxy" for value in stellarity.tolist()
    )


def _brightness(catalogue: Catalogue) -> tuple[Floats, BrightnessKind]:
    """Signal to noise, or else magnitudes."""
    snr = _snr(catalogue)
    if snr is not None:
        return snr, "snr"
    magnitude = _magnitude(catalogue)
    if magnitude is not None:
        return magnitude, "magnitude"
    return np.full(len(catalogue), np.nan), "none"


def _snr(catalogue: Catalogue) -> Floats | None:
    for name in (*SNRS, *sorted(name for name in catalogue.columns if name.startswith("SNR_"))):
        values = catalogue.number(name)
        if values is not None and np.isfinite(values).any():
            return values
    for flux, error in FLUXES:
        signal, noise = catalogue.number(flux), catalogue.number(error)
        if signal is not None and noise is not None:
            with np.errstate(all="ignore"):
                ratio = np.where(noise > 0, signal / noise, np.nan)
            if np.isfinite(ratio).any():
                return np.asarray(ratio)
    return None


def _magnitude(catalogue: Catalogue) -> Floats | None:
    others = sorted(name for name in catalogue.columns if name.startswith("MAG") and "ERR" not in name)
    for name in (*MAGNITUDES, *others):
        values = catalogue.number(name)
        if values is not None and np.isfinite(values).any():
            return values
    return None


def _scores(catalogue: Catalogue) -> Floats:
    """Between 0 and 1, higher where the list is surer of a row, or has it brighter."""
    for name in SCORES:
        values = catalogue.number(name)
        if values is not None and ((values >= 0) & (values <= 1) | np.isnan(values)).all():
            return np.asarray(np.nan_to_num(values))
    brightness, kind = _brightness(catalogue)
    flux = next((values for pair in FLUXES if (values := catalogue.number(pair[0])) is not None), None)
    if kind == "none" and flux is None:
        return np.ones(len(catalogue))
    order: Floats = brightness if kind == "snr" else flux if flux is not None else -brightness
    ranks = np.zeros(len(order), np.float64)
    ranks[np.argsort(np.where(np.isfinite(order), order, -np.inf), kind="stable")] = np.arange(1, len(order) + 1)
    return np.asarray(ranks / max(len(order), 1))
