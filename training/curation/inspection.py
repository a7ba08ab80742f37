"""Everything that curation wants to know of a frame and its catalogue, worked out once and kept beside the data set."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field, ValidationError

from lynceus.detections import Floats
from lynceus.durable import write_whole
from lynceus.errors import LynceusError
from lynceus.fits_file import Limits, open_fits, text
from lynceus.frame import Frame, read_frame
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec, estimate_sky
from lynceus.spec import Spec
from lynceus.tables import read_catalogue
from lynceus.truth import Truth, truth_of
from lynceus.unlisted import find_peaks, unlisted_peaks
from training.curation.pairs import Pair
from training.curation.quality import CatalogueFit, Quality, assess, fit_of
from training.curation.thumbnails import draw_thumbnails

FORMAT = 10  # of the kept facts; another one is worked out again
TARGET, TELESCOPE, INSTRUMENT = ("OBJECT", "OBJNAME", "TARGNAME"), ("TELESCOP",), ("INSTRUME", "DETECTOR", "CAMERA")
CHIP = ("CCDNUM", "CHIPID", "CHIP", "EXTNAME", "DETSEC")
MOST_SIDES = 5000  # box sides kept of one catalogue


class Place(Spec):
    """Where on the sky a frame is, in ICRS degrees: its middle and its four corners in turn."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ra: float
    dec: float
    corners: tuple[tuple[float, float], ...]


class Inspection(Spec):
    """What was found of one pair.

    Attributes
    ----------
    fault : str
        Why the frame cannot be read; empty if it can. Nothing else is known of one that cannot.
    catalogue_fault : str
        Why the catalogue cannot be read or used; empty if it can, or if there is none.
    content : str
        SHA-256 of the frame's pixels, whatever the file around them.
    width, height : int
        In pixels.
    target, instrument : str
        By the header: OBJECT, and telescope, instrument and chip.
    date_obs, filter : str
        By the header; empty where it has none.
    exptime, pixel_scale : float or None
        Seconds, and arcsec.
    place : Place or None
        Where the frame has a WCS.
    quality : Quality or None
        Facts of the frame.
    fit : CatalogueFit or None
        Of the catalogue.
    sides : tuple of float
        Larger sides of the catalogue's boxes, in pixels, by the bundle's rule.
    ignored, unlisted : int
        Rows that are ignored, and candidates that the catalogue lacks.
    warnings : tuple of str
        What was odd about the frame and its catalogue.
    """

    fault: str = ""
    catalogue_fault: str = ""
    content: str = ""
    width: int = 0
    height: int = 0
    target: str = ""
    instrument: str = ""
    date_obs: str = ""
    filter: str = ""
    exptime: float | None = None
    pixel_scale: float | None = None
    place: Place | None = None
    quality: Quality | None = None
    fit: CatalogueFit | None = None
    sides: tuple[float, ...] = ()
    ignored: int = 0
    unlisted: int = 0
    warnings: tuple[str, ...] = ()


class InspectionSpec(Spec):
    """How frames are looked at.

    Attributes
    ----------
    sky : SkySpec
        How the sky is estimated.
    measure : MeasureSpec
        How sources are measured, and what a box means.
    thumbnail : int
        Longer side of the pictures, in pixels, about.
    max_bytes, max_pixels : int
        Larger files, and frames of more pixels, are not read.
    """

    sky: SkySpec = SkySpec()
    measure: MeasureSpec = MeasureSpec()
    thumbnail: int = Field(400, ge=64)
    max_bytes: int = Field(4 * 1024**3, gt=0)
    max_pixels: int = Field(600_000_000, gt=0)

    @property
    def limits(self) -> Limits:
        """What a file may cost."""
        return Limits(bytes=self.max_bytes, pixels=self.max_pixels)


@dataclass(frozen=True)
class Store:
    """Where inspections and their pictures are kept: one name for each frame's path."""

    folder: Path

    def facts(self, pair: Pair) -> Path:
        """Of the facts."""
        return self.folder / f"{_name(pair)}.json"

    def pictures(self, pair: Pair) -> tuple[Path, Path]:
        """Of the whole frame, and of a part of it."""
        return self.folder / f"{_name(pair)}.jpg", self.folder / f"{_name(pair)}-part.jpg"


def inspect_pair(archive: Path, pair: Pair, store: Store, spec: InspectionSpec) -> Inspection:
    """Inspect a frame and its catalogue, or take what is kept of them if the files have not changed.

    Parameters
    ----------
    archive : Path
        What the pair's paths are relative to.
    pair : Pair
        A frame and, perhaps, its catalogue.
    store : Store
        Where facts and pictures are kept.
    spec : InspectionSpec
        How they are looked at.

    Returns
    -------
    Inspection
        Never an error: a frame that cannot be read has a `fault`.
    """
    stamp = _stamp(archive, pair, spec)
    kept = _kept(store.facts(pair), stamp)
    if kept is not None:
        return kept
    try:
        found = _inspected(archive, pair, store, spec)
    except LynceusError as error:
        found = Inspection(fault=str(error))
    except OSError as error:  # it may pass, so that it is not kept
        return Inspection(fault=str(error))
    except Exception as error:  # one bad frame must not end the inspection of thousands
        return Inspection(fault=f"it cannot be inspected ({type(error).__name__}: {str(error)[:200]})")
    remember(found, pair, store, stamp)
    return found


def remember(found: Inspection, pair: Pair, store: Store, stamp: Sequence[Any]) -> None:
    """Keep an inspection for as long as the files and the spec stay the same."""
    kept = {"stamp": list(stamp), "found": found.model_dump(mode="json")}
    write_whole(store.facts(pair), json.dumps(kept).encode())


def _name(pair: Pair) -> str:
    return hashlib.sha256(str(pair.frame).encode()).hexdigest()[:20]


def _stamp(archive: Path, pair: Pair, spec: InspectionSpec) -> list[Any]:
    """What an inspection depends on."""
    stamp: list[Any] = [FORMAT, spec.model_dump_json()]
    for path in (pair.frame, pair.catalogue):
        try:
            facts = None if path is None else (archive / path).stat()
        except OSError:  # gone, or a link to nowhere: reading it will tell
            facts = None
        stamp += [str(path), None if facts is None else [facts.st_size, facts.st_mtime_ns]]
    return stamp


def _kept(path: Path, stamp: list[Any]) -> Inspection | None:
    try:
        kept = json.loads(path.read_bytes())
        return Inspection.model_validate(kept["found"]) if kept["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _inspected(archive: Path, pair: Pair, store: Store, spec: InspectionSpec) -> Inspection:
    """Read the frame, measure it, lay the catalogue over it, and draw both."""
    data = (archive / pair.frame).read_bytes()
    frame = read_frame(data, limits=spec.limits)
    header = _header_facts(data, frame, spec.limits)
    del data
    sky = estimate_sky(frame, spec.sky)
    peaks, warning = find_peaks(frame, sky)
    quality = assess(frame, sky, peaks, spec.measure)
    truth, fit, fault = None, None, ""
    if pair.catalogue is not None:
        try:
            catalogue = read_catalogue((archive / pair.catalogue).read_bytes())
            truth = truth_of(catalogue, frame, sky, spec.measure, unlisted=False)
            fit = fit_of(catalogue, frame, peaks, quality.fwhm_px, _listed_fwhm(truth, spec.measure))
        except (LynceusError, OSError) as error:
            fault = str(error)
    missing = unlisted_peaks(peaks, spec.measure, *truth.centres, truth.boxes) if truth else None
    draw_thumbnails(frame, sky, truth, quality, (peaks.x, peaks.y), store.pictures(pair), spec.thumbnail)
    odd = (*frame.warnings, warning, *(truth.warnings if truth else ()))
    return Inspection(
        **header,
        catalogue_fault=fault,
        content=_content(frame),
        width=frame.shape[1],
        height=frame.shape[0],
        pixel_scale=frame.pixel_scale,
        place=_place(frame),
        quality=quality,
        fit=fit,
        sides=_sides(truth),
        ignored=int(truth.ignored.sum()) if truth else 0,
        unlisted=len(missing.x) if missing else 0,
        warnings=tuple(dict.fromkeys(warning for warning in odd if warning)),
    )


def _header_facts(data: bytes, frame: Frame, limits: Limits) -> dict[str, Any]:
    """What the header says that a duplicate would repeat."""
    hdus = open_fits(data, limits)
    headers = (hdus[frame.hdu].header, hdus[0].header)

    def first(keys: tuple[str, ...]) -> str:
        return next((str(found).strip() for header in headers for key in keys if (found := _word(header, key))), "")

    parts = (first(TELESCOPE), first(INSTRUMENT), first(CHIP))
    return {
        "target": first(TARGET),
        "instrument": " ".join(part for part in parts if part),
        "date_obs": frame.facts.date_obs or "",
        "filter": frame.facts.filter or "",
        "exptime": frame.facts.exposure_time,
    }


def _word(header: Any, key: str) -> str:
    """A keyword as text, also where it holds a number."""
    found = text(header, key)
    if found:
        return found
    number = header.get(key)
    return str(number) if isinstance(number, int) and not isinstance(number, bool) else ""


def _content(frame: Frame) -> str:
    digest = hashlib.sha256(repr(frame.shape).encode())
    digest.update(np.nan_to_num(frame.pixels, nan=-1.2345e30).tobytes())
    return digest.hexdigest()


def _place(frame: Frame) -> Place | None:
    """Middle and corners on the sky; None where one of them has no position."""
    height, width = frame.shape
    x = np.array([(width - 1) / 2, -0.5, width - 0.5, width - 0.5, -0.5])
    y = np.array([(height - 1) / 2, -0.5, -0.5, height - 0.5, height - 0.5])
    ra, dec = frame.sky_positions(x, y)
    if not (np.isfinite(ra) & np.isfinite(dec)).all():
        return None
    corners = tuple(zip(ra[1:].tolist(), dec[1:].tolist(), strict=True))
    return Place(ra=float(ra[0]), dec=float(dec[0]), corners=corners)


def _listed_fwhm(truth: Truth, measure: MeasureSpec) -> float:
    """Median FWHM of a catalogue's rows in pixels, by their boxes; 0 where there are none."""
    sides = (truth.boxes[:, 2:] - truth.boxes[:, :2]).mean(axis=1)
    return float(np.median(sides)) / measure.box_scale if len(sides) else 0.0


def _sides(truth: Truth | None) -> tuple[float, ...]:
    """Larger sides of the boxes, those of ignored rows left out; of very many a regular choice."""
    if truth is None:
        return ()
    boxes: Floats = truth.boxes[~truth.ignored]
    sides = np.sort((boxes[:, 2:] - boxes[:, :2]).max(axis=1)) if len(boxes) else np.zeros(0)
    step = -(-len(sides) // MOST_SIDES) if len(sides) else 1
    return tuple(round(float(side), 2) for side in sides[::step])


def unreadable(archive: Path, pair: Pair, store: Store, spec: InspectionSpec, fault: str) -> Inspection:
    """Note, and keep, that a frame cannot be inspected."""
    found = Inspection(fault=fault)
    remember(found, pair, store, _stamp(archive, pair, spec))
    return found
