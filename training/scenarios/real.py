"""The real tests: frames of telescopes that nothing was trained on, against truths that others measured."""

import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np

from lynceus.box_rules import positions_of
from lynceus.bundle import load_bundle
from lynceus.detections import Floats
from lynceus.detector import Detector
from lynceus.durable import write_whole
from lynceus.frame import Frame, read_frame
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec, estimate_sky
from lynceus.tables import read_catalogue
from lynceus.truth import IGNORE_FLAGS
from lynceus.unlisted import seeing
from training.errors import TrainingError
from training.scenarios.chance import SHIFTS, chance_in, matched_by_chance, shifted_claims
from training.scenarios.confirmed import completed, missing_places
from training.scenarios.curves import Curve, claims_of, curve_of, envelope
from training.scenarios.field import (
    STACKED,
    SURE,
    Field,
    crossband_place,
    in_noise,
    limits_of,
    read_band,
    stack_of,
    sure_share,
)
from training.scenarios.listings import Listing, Pairs, Place
from training.scenarios.real_figures import Against, BandFigures, CatalogueFigures, Control, Finding, RealFigures
from training.scenarios.real_page import real_page, real_tables
from training.scenarios.search import AREAS, COARSE, CONTRASTS, MESHES
from training.scenarios.store import kept_listings
from training.scenarios.suite import read_suite
from training.scenarios.trials import listings_of
from training.scenes.scene import draw_scene
from training.scoring.report import OURS
from training.scoring.rival import GRID, RivalSettings, extract
from training.scoring.source_extractor import SourceExtractorSettings, program

SEXTRACTOR, SEP = "SExtractor", "sep"
SEP_THRESHOLDS = (1.0, 1.5, 2.5)
BANDS = ("r", "Ks", "H", "Z")
OPTICAL, INFRARED = ("g", "i"), ("Z", "Y", "J")  # of two telescopes, each with optics of its own
ABOUT_BANDS = {
    "r": "independent of the truth",
    "Ks": "infrared, correlated noise; independent of the truth",
    "H": "infrared, correlated noise; independent of the truth",
    "Z": "infrared, correlated noise; part of the stack that the truth was found on",
}
LEVELS = tuple(round(level, 3) for level in np.arange(0.99, 0.395, -0.01))
CONTROLS = ("bias_0", "dark_0", "flat_0")
EMMI = "catalogues/eso_ntt_emmi"
BLANK_SKIES, BLANK_SEED = 4, 770_177
RESULT, TABLES, PAGE = "real.json", "real.md", "real.html"
PIXELS = 1e6


def real_tests(
    bundle: Path, data: Path, out: Path, *, bands: Sequence[str] = BANDS, kept: Path | None = None, device: str = "cpu"
) -> RealFigures:
    """Judge a bundle on real frames that nothing was trained on.

    Parameters
    ----------
    bundle : Path
        Folder `<name>/<version>/`.
    data : Path
        Folder of the real frames.
    out : Path
        Gets `real.json`, `real.md` and `real.html`.
    bands : sequence of str
        Of the deep field.
    kept : Path or None
        Folder that keeps what was listed, so that what was killed goes on; `out` by default.
    device : str
        Where the network runs.

    Raises
    ------
    TrainingError
        If the frames are absent.
    """
    if not data.is_dir():
        raise TrainingError(f"there is no folder of real frames {data}: set LYNCEUS_TEST_DATA")
    loaded = load_bundle(bundle, device=device)
    finder = Finder(loaded.detector, loaded.manifest.weights_sha256, kept or out)
    stack = stack_of([read_band(data, band) for band in STACKED]) if bands else None
    figures = RealFigures(
        bundle=f"{loaded.manifest.name} {loaded.manifest.version}",
        threshold=finder.threshold,
        bands={band: band_figures(finder, data, band, stack) for band in bands},
        catalogue=catalogue_figures(finder, data),
        controls=control_figures(finder, data),
    )
    write_whole(out / RESULT, figures.model_dump_json(indent=1).encode() + b"\n")
    write_whole(out / TABLES, real_tables(figures).encode())
    write_whole(out / PAGE, real_page(figures).encode())
    return figures


class Finder:
    """A detector whose lists are kept.

    Parameters
    ----------
    detector : Detector
        Ours.
    weights : str
        Digest of its weights.
    store : Path
        Where lists are kept, ours and the rivals'.
    """

    def __init__(self, detector: Detector, weights: str, store: Path) -> None:
        self.detector, self.store = detector, store
        self.threshold = detector.spec.min_score
        key = detector.spec.model_copy(update={"min_score": 0.5}).model_dump_json()  # lists do not depend on it
        self._key = sha256((weights + key).encode()).hexdigest()[:12]

    def find(self, frame: Frame, name: str) -> tuple[Listing, float | None]:
        """What it lists on a frame, and the seconds that took; None where it was kept."""
        path, began = self.store / name / f"ours-{self._key}.npz", time.perf_counter()
        fresh = not path.exists()
        listed = kept_listings(path, lambda: [Listing.of(self.detector.detect(frame))])[0]
        return listed, time.perf_counter() - began if fresh else None


def band_figures(finder: Finder, data: Path, band: str, stack: Floats | None) -> BandFigures:
    """Ours, SExtractor and sep in one band of the deep field against the objects found across bands."""
    frame = read_band(data, band)
    scaled = in_noise(frame)
    fwhm = seeing(scaled, estimate_sky(scaled, SkySpec()), MeasureSpec()) or 3.0
    field = Field(scaled, fwhm, crossband_place(data, frame.shape, fwhm))
    ours, seconds = finder.find(frame, f"field-{band}")
    rivals = rival_listings(field, finder.store / f"field-{band}")
    sure = sure_detections(rivals)
    others = [[read_band(data, one) for one in bands if one != band] for bands in (OPTICAL, INFRARED)]
    places, missing = missing_places(field, *others)
    return BandFigures(
        about=ABOUT_BANDS.get(band, ""),
        seeing=fwhm,
        seconds=seconds,
        limits=limits_of(field, sure, stack),
        extracted=against(field.place, ours, rivals, sure, finder.threshold),
        missing=missing,
        completed=against(completed(field.place, places, fwhm), ours, rivals, sure, finder.threshold),
    )


def against(
    place: Place, ours: Listing, rivals: Mapping[str, Sequence[Listing]], sure: Listing, threshold: float
) -> Against:
    """All finders against one truth; `sure` are detections that nobody doubts."""
    curves = {OURS: fair_curve(ours, place)}
    curves |= {name: envelope([fair_curve(one, place) for one in some]) for name, some in rivals.items() if some}
    counted = curve_of(claims_of([(ours, place)], None))
    at, matched = counted.at(threshold), sure_share(sure, place)
    allowed = (min(matched or 1.0, 0.99), 0.5)
    return Against(
        finders={name: finding_of(curve, _best_f1(name, ours, rivals, place)) for name, curve in curves.items()},
        shipped=None if at is None else (float(counted.completeness[at]), float(counted.reliability[at])),
        sure_matched=matched,
        allowed=allowed,
        lead=lead_of(curves, allowed),
    )


def rival_listings(field: Field, store: Path) -> dict[str, list[Listing]]:
    """What the rivals list with each of many settings; those whose program is absent list nothing."""
    grid = field_grid() if program() is not None else []
    key = sha256("".join(one.model_dump_json() for one in grid).encode()).hexdigest()[:12]
    settings = [one for one in GRID if one.least_area == 5 and one.threshold in SEP_THRESHOLDS]
    return {
        SEXTRACTOR: kept_listings(
            store / f"sextractor-{key}.npz", lambda: list(listings_of(field.frame, field.fwhm, grid).values())
        )
        if grid
        else [],
        SEP: kept_listings(store / "sep.npz", lambda: [sep_listing(field, one) for one in settings]),
    }


def field_grid(thorough: bool = False) -> list[SourceExtractorSettings]:
    """The settings of SExtractor that are tried on a field, its defaults among them: the curve of their best is drawn.

    Parameters
    ----------
    thorough : bool
        All that the suite's search tries at first, three times as many; a few minutes a band.
    """
    filters = COARSE if thorough else {"default": (1.0, 1.5, 2.0), "matched": (0.5, 0.7, 1.0, 1.5)}
    coarse = [
        SourceExtractorSettings(threshold=threshold, convolution=convolution, least_area=area)
        for convolution, thresholds in filters.items()
        for threshold in thresholds
        for area in (AREAS if thorough else AREAS[1:])
        if convolution != "none" or area > 1
    ]
    base = SourceExtractorSettings(threshold=0.7, convolution="matched", least_area=3)
    ways: dict[str, Sequence[object]] = {"mesh": MESHES[2:], "deblend": CONTRASTS[::3], "clean": (False,)}
    others = [base.model_copy(update={name: value}) for name, some in ways.items() for value in some]
    return list(dict.fromkeys([*coarse, SourceExtractorSettings(), *others]))


def sep_listing(field: Field, settings: RivalSettings) -> Listing:
    """What sep lists; by flux, for its noise is the same all over."""
    positions, flux = extract(field.frame, settings, field.fwhm)
    sound = np.isfinite(positions).all(axis=1) & np.isfinite(flux)
    return Listing(positions[sound].astype(np.float64), flux[sound].astype(np.float64))


def sure_detections(rivals: Mapping[str, Sequence[Listing]]) -> Listing:
    """What SExtractor, at its own defaults, lists with a signal to noise that nobody doubts."""
    defaults = field_grid().index(SourceExtractorSettings())
    some = rivals[SEXTRACTOR]
    if not some:
        return Listing(np.zeros((0, 2)), np.zeros(0))
    bright = some[defaults].scores > SURE
    return Listing(some[defaults].positions[bright], some[defaults].scores[bright])


def fair_curve(listing: Listing, place: Place) -> Curve:
    """The curve of a list, chance matches counted as wrong."""
    pairs: Pairs = [(listing, place)]
    counted = curve_of(claims_of(pairs, None))
    matched = matched_by_chance(shifted_claims(pairs, None, SHIFTS), counted.thresholds, SHIFTS)
    return counted.without(chance_in(counted, matched))


def finding_of(curve: Curve, best_f1: float) -> Finding:
    """The figures of a curve."""
    wide = curve.completeness >= 0.02
    keep = (
        np.unique(np.linspace(0, max(len(curve.thresholds) - 1, 0), 240).astype(int)) if len(curve.thresholds) else []
    )
    return Finding(
        completeness_at={f"{level:.2f}": completeness_at(curve, level) for level in LEVELS},
        most_reliable=float(curve.reliability[wide].max(initial=0.0)),
        best_f1=best_f1,
        curve=tuple((float(curve.completeness[one]), float(curve.reliability[one])) for one in keep),
    )


def completeness_at(curve: Curve, reliability: float) -> float:
    """The highest completeness of any threshold that is at least so reliable; 0 without."""
    place = curve.reaching(reliability)
    return 0.0 if place is None else float(curve.completeness[place])


def lead_of(curves: Mapping[str, Curve], allowed: tuple[float, float]) -> tuple[float, float] | None:
    """Our completeness less that of the best rival, the least and the mean over a range of reliability."""
    levels = [level for level in LEVELS if allowed[1] <= level <= allowed[0]]
    rivals = [curve for name, curve in curves.items() if name != OURS]
    if not levels or not rivals:
        return None
    lead = [
        completeness_at(curves[OURS], level) - max(completeness_at(one, level) for one in rivals) for level in levels
    ]
    return min(lead), sum(lead) / len(lead)


def _best_f1(name: str, ours: Listing, rivals: Mapping[str, Sequence[Listing]], place: Place) -> float:
    some = [ours] if name == OURS else rivals[name]
    return max(float(curve_of(claims_of([(one, place)], None)).f1.max(initial=0.0)) for one in some)


def catalogue_figures(finder: Finder, data: Path) -> CatalogueFigures | None:
    """Ours on the corner of SExtractor's own test frame, against the catalogue that comes with it; None without."""
    folder = data / EMMI
    if not folder.is_dir():
        return None
    frame = read_frame((folder / "image.fits").read_bytes())
    catalogue = read_catalogue((folder / "image.cat").read_bytes())
    x, y = positions_of(catalogue, frame)
    fwhm = seeing(frame, estimate_sky(frame, SkySpec()), MeasureSpec()) or 3.0
    flags = catalogue.number("FLAGS")
    aside = np.zeros(len(x), bool) if flags is None else (flags.astype(int) & IGNORE_FLAGS) > 0
    radius = np.full(len(x), fwhm)
    place = Place(np.stack([x, y], axis=1), np.full(len(x), np.nan), radius, frame.shape, aside)
    curve = curve_of(claims_of([(finder.find(frame, "emmi")[0], place)], None))
    at, best = curve.at(finder.threshold), int(np.argmax(curve.f1)) if len(curve.thresholds) else None
    if at is None or best is None:
        return CatalogueFigures(sources=curve.sources, completeness=0, reliability=0, f1=0, best_f1=0, best_threshold=0)
    return CatalogueFigures(
        sources=curve.sources,
        completeness=float(curve.completeness[at]),
        reliability=float(curve.reliability[at]),
        f1=float(curve.f1[at]),
        best_f1=float(curve.f1[best]),
        best_threshold=float(curve.thresholds[best]),
    )


def control_figures(finder: Finder, data: Path) -> dict[str, Control]:
    """Ours on frames without stars: real ones, the right half of each by itself, and blank simulated skies."""
    controls: dict[str, Control] = {}
    for name in CONTROLS:
        path = data / "frames" / "huntsman" / f"{name}.fits"
        if path.exists():
            frame = read_frame(path.read_bytes())
            found, half = finder.find(frame, name)[0], frame.shape[1] / 2
            right = Listing(found.positions[found.positions[:, 0] >= half], found.scores[found.positions[:, 0] >= half])
            controls[name] = control_of([found], frame.pixels.size, finder.threshold)
            controls[f"{name}, right half"] = control_of([right], frame.pixels.size // 2, finder.threshold)
    return controls | {"blank sky": blank_control(finder)}


def blank_control(finder: Finder, count: int = BLANK_SKIES) -> Control:
    """Ours on the suite's star-free scene, drawn with a seed of this test."""
    suite = read_suite()
    scene = next(one.scene for one in suite.scenarios if one.starless)
    listings, pixels = [], 0
    for index in range(count):
        hdu, _ = draw_scene(np.random.default_rng([BLANK_SEED, index]), scene)
        file = BytesIO()
        hdu.writeto(file)
        frame = read_frame(file.getvalue())
        listings.append(finder.find(frame, f"blank-{index}")[0])
        pixels += frame.pixels.size
    return control_of(listings, pixels, finder.threshold)


def control_of(listings: Sequence[Listing], pixels: int, threshold: float) -> Control:
    """Detections where there is nothing."""
    scores = np.concatenate([np.zeros(0), *(one.scores for one in listings)])
    found = int((scores >= threshold).sum())
    surest = float(scores.max()) if len(scores) else None
    return Control(pixels=pixels, detections=found, per_megapixel=found / (pixels / PIXELS), surest=surest)
