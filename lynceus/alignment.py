"""Does a catalogue fit its frame? Whether they overlap, and whether one is shifted against the other."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree
from scipy.special import betainc, gammainc

from lynceus.detections import Floats

Verdict = Literal["fits", "shifted", "other_field", "no_overlap", "unknown"]

FEWEST = 8  # sources in either list; fewer tell nothing
PROBES, MOST_PAIRS = 1000, 2_000_000
LARGEST_LIST = 200_000
SEARCH_SHARE, SEARCH_PIXELS = 0.1, 200.0  # how far a shift is looked for: the larger, but no more than half a side
CANDIDATES = 100  # bins whose significance is worked out
BACKGROUND = 31  # bins around one that tell how many pairs chance puts into it
CHANCE = 1e-6  # that one of all bins of the histogram holds as many pairs by chance
LEAST_SHARE = 0.2  # of the sources must agree on a shift, over what chance gives
LEAST_GAIN = 1.5  # times as many must agree with a large shift as with none
LEAST_SHIFT, SURENESS = 0.35, 5.0  # pixels, and standard errors, from which a small shift is one
ROUNDS = 8
CONVENTION = 0.3  # pixels that a shift by one convention may differ from it


@dataclass(frozen=True)
class Alignment:
    """How a catalogue lies on its frame.

    Attributes
    ----------
    verdict : {"fits", "shifted", "other_field", "no_overlap", "unknown"}
        What to make of it.
    text : str
        The same in the user's words.
    on_frame : float
        Share of the catalogue's rows whose position is on the frame.
    dx, dy : float
        Catalogue less frame, in pixels; 0 where no shift could be measured.
    matched : float
        Share of the sources of the shorter list that the other has within the tolerance, as they stand.
    matched_after : float
        The same with the shift taken back.
    """

    verdict: Verdict
    text: str
    on_frame: float
    dx: float = 0.0
    dy: float = 0.0
    matched: float = 0.0
    matched_after: float = 0.0


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Separations of probes from all partners near them, catalogue less frame: (P, 2), and the probe of each, (P,)."""

    separations: Floats
    probe: NDArray[np.intp]
    probes: int

    def agreeing(self, shift: Floats, tolerance: float) -> int:
        """Probes that have a partner within the tolerance once the shift is taken back."""
        near = np.hypot(*(self.separations - shift).T) <= tolerance
        return len(np.unique(self.probe[near]))

    def settled(self, start: Floats, reach: float, tolerance: float) -> tuple[Floats, float]:
        """The median separation near a first guess, found by narrowing rounds, and its standard error."""
        shift, error = start, np.inf
        near = self.separations[(np.abs(self.separations - start) <= reach + tolerance).all(axis=1)]
        for radius in np.geomspace(reach, tolerance, ROUNDS):
            inside = near[np.hypot(*(near - shift).T) <= radius]
            if len(inside) < FEWEST // 2:
                return shift, np.inf
            shift = np.median(inside, axis=0)
            spread = 1.4826 * np.median(np.abs(inside - shift), axis=0)
            error = 1.2533 * float(np.max(spread)) / np.sqrt(len(inside))
        return shift, max(error, 1e-9)


def check_alignment(
    truth_x: Floats,
    truth_y: Floats,
    reference_x: Floats,
    reference_y: Floats,
    shape: tuple[int, int],
    tolerance: float,
) -> Alignment:
    """Compare where a catalogue has sources with where the frame has some.

    Parameters
    ----------
    truth_x, truth_y : ndarray, shape (M,)
        The catalogue's, 0-based pixel centres, on the frame or off it; NaN is left out.
    reference_x, reference_y : ndarray, shape (N,)
        Detections, or peaks, of the frame.
    shape : (int, int)
        Height and width of the frame, in pixels.
    tolerance : float
        Two positions so near are one source, in pixels; a FWHM, or a little more.

    Returns
    -------
    Alignment
        "unknown" where there are too few sources to tell.

    Raises
    ------
    ValueError
        If the tolerance is not positive.

    Notes
    -----
    A shift is a peak in the two-dimensional histogram of the separations of all pairs, over the pairs that chance
    makes. Up to 1000 sources of the shorter list, the first ones, are paired with all of the longer. No shift is
    preferred to a large one that hardly more sources agree with: lattices and clusters agree with many.
    """
    if tolerance <= 0:
        raise ValueError("the tolerance must be positive")
    truth, reference = _finite(truth_x, truth_y), _finite(reference_x, reference_y)
    sides = np.array([shape[1], shape[0]], float)
    on_frame = float(_inside(truth, sides, 0.0).mean()) if len(truth) else 0.0
    if len(truth) < FEWEST or len(reference) < FEWEST:
        return Alignment("unknown", "too few sources to tell whether the catalogue fits the frame", on_frame)
    search = float(min(max(SEARCH_SHARE * sides.max(), SEARCH_PIXELS), sides.min() / 2))
    near = truth[_inside(truth, sides, search)][:LARGEST_LIST]
    pairs = _pairs(near, reference[:LARGEST_LIST], search)
    if pairs.probes < FEWEST:
        return _few(on_frame)
    judged = _judged(pairs, on_frame, search, tolerance, sides, max(len(near), len(reference)))
    if judged.verdict != "other_field":
        return judged
    swapped = _pairs(near[:, ::-1], reference[:LARGEST_LIST], search)
    chance = _chance(max(len(near), len(reference)), tolerance, sides)
    if _agrees(swapped.agreeing(np.zeros(2), tolerance), max(swapped.probes, 1), chance):
        return replace(judged, text="the catalogue fits the frame with x and y swapped")
    return judged


def _few(on_frame: float) -> Alignment:
    if on_frame == 0.0:
        return Alignment("no_overlap", "not one source of the catalogue lies on the frame", on_frame)
    return Alignment("unknown", "too few sources on the frame to tell whether the catalogue fits it", on_frame)


def _finite(x: Floats, y: Floats) -> Floats:
    positions = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=1)
    return np.asarray(positions[np.isfinite(positions).all(axis=1)])


def _inside(positions: Floats, sides: Floats, margin: float) -> Floats:
    return np.asarray(((positions >= -0.5 - margin) & (positions < sides - 0.5 + margin)).all(axis=1))


def _pairs(truth: Floats, reference: Floats, search: float) -> _Pairs:
    """Pair the first sources of the shorter list with all of the longer, within a square of the search's reach."""
    turned = len(reference) < len(truth)
    probes, others = (reference, truth) if turned else (truth, reference)
    if not len(probes):
        return _Pairs(np.zeros((0, 2)), np.zeros(0, np.intp), 0)
    tree = cKDTree(others)
    counts = tree.query_ball_point(probes[:PROBES], search, p=np.inf, return_length=True)
    probes = probes[: max(int(np.searchsorted(np.cumsum(counts), MOST_PAIRS)), 1)][:PROBES]
    counts = counts[: len(probes)]
    partner = np.concatenate([np.asarray(one, np.intp) for one in tree.query_ball_point(probes, search, p=np.inf)])
    probe = np.repeat(np.arange(len(probes)), counts)
    separations = (others[partner] - probes[probe]) * (1.0 if turned else -1.0)
    return _Pairs(separations, probe, len(probes))


def _judged(pairs: _Pairs, on_frame: float, search: float, tolerance: float, sides: Floats, longer: int) -> Alignment:
    """Weigh the best shift near none against the best anywhere, and both against chance."""
    chance = _chance(longer, tolerance, sides)
    zero = np.zeros(2)
    standing = pairs.agreeing(zero, tolerance)
    small, error = pairs.settled(zero, tolerance, tolerance)
    peak, real = _peak(pairs, search, tolerance, sides)
    large, _ = pairs.settled(peak, 2 * tolerance, tolerance)
    fits, moved = pairs.agreeing(small, tolerance), pairs.agreeing(large, tolerance)
    shares = {"on_frame": on_frame, "matched": standing / pairs.probes}
    far = np.hypot(*large) > tolerance
    if real and far and moved > LEAST_GAIN * fits and _agrees(moved, pairs.probes, chance):
        return _shifted(large, moved / pairs.probes, shares)
    if _agrees(fits, pairs.probes, chance) or (real and not far and _agrees(fits, pairs.probes, chance, 0.0)):
        if np.max(np.abs(small)) > max(LEAST_SHIFT, SURENESS * error):
            return _shifted(small, fits / pairs.probes, shares)
        text = "the catalogue fits the frame"
        return Alignment(
            "fits", text, dx=float(small[0]), dy=float(small[1]), matched_after=fits / pairs.probes, **shares
        )
    if _would_show(pairs.probes, chance):
        if on_frame == 0.0:
            return _few(on_frame)
        text = "the catalogue does not fit the frame, and no shift was found that makes it fit: is it of another field?"
        return Alignment("other_field", text, matched_after=standing / pairs.probes, **shares)
    text = "the frame is too crowded for the tolerance, or its sources too few, to tell whether the catalogue fits it"
    return Alignment("unknown", text, matched_after=standing / pairs.probes, **shares)


def _chance(longer: int, tolerance: float, sides: Floats) -> float:
    """Share of the sources that have one of the longer list within the tolerance by chance."""
    return -float(np.expm1(-longer * np.pi * tolerance**2 / float(sides.prod())))


def _agrees(count: int, probes: int, chance: float, share: float = LEAST_SHARE) -> bool:
    """Whether more sources agree than chance would have, by a share that matters."""
    return count / probes > chance + share * (1 - chance) and _by_chance(count, probes, chance) < CHANCE


def _by_chance(count: int, probes: int, chance: float) -> float:
    """Probability of so many successes, or more, by the binomial distribution."""
    return float(betainc(count, probes - count + 1, chance)) if count else 1.0


def _would_show(probes: int, chance: float) -> bool:
    """Whether a catalogue that fits, if half of its sources are seen, could be told from one that does not."""
    return _agrees(round(probes * (chance + 0.5 * (1 - chance))), probes, chance)


def _peak(pairs: _Pairs, search: float, tolerance: float, sides: Floats) -> tuple[Floats, bool]:
    """The shift that most pairs agree with, to a bin, and whether it rises out of chance.

    By chance pairs are fewer the further apart they are, as two frames that are shifted share less of their area.
    """
    bins = max(int(np.ceil(2 * search / tolerance)), 3)
    edges = np.linspace(-search, search, bins + 1)
    counts, _ = np.histogramdd(pairs.separations, bins=(edges, edges))
    peaks = 9 * uniform_filter(counts, 3, mode="constant")  # a shift may lie where four bins meet
    middles = np.abs(edges[1:] + edges[:-1]) / 2
    shared = np.outer(*(1 - middles / side for side in sides))
    wide = min(BACKGROUND, bins)
    around = uniform_filter(counts, wide, mode="reflect") / uniform_filter(shared, wide, mode="reflect") * shared
    expected = 9 * np.maximum(around, counts.mean() / 9)
    excess = (peaks - expected) / np.sqrt(expected)
    best = np.argpartition(-excess, min(CANDIDATES, excess.size) - 1, axis=None)[:CANDIDATES]
    with np.errstate(divide="ignore"):
        significance = np.log(gammainc(np.rint(peaks.flat[best]), expected.flat[best]))  # of Poisson's distribution
    middle = best[np.lexsort((-excess.flat[best], significance))[0]]
    column, row = np.unravel_index(middle, counts.shape)
    fullest = np.array([column, row]) + _fullest(counts, int(column), int(row))
    real = float(significance.min()) + np.log(counts.size) < np.log(CHANCE)
    return (edges[fullest] + edges[fullest + 1]) / 2, bool(real)


def _fullest(counts: Floats, column: int, row: int) -> NDArray[np.intp]:
    """The fullest of a bin and those around it, in steps from it."""
    around = np.pad(counts, 1)[column : column + 3, row : row + 3]
    return np.array(np.unravel_index(int(np.argmax(around)), around.shape)) - 1


def _shifted(shift: Floats, after: float, shares: dict[str, float]) -> Alignment:
    dx, dy = (float(value) for value in shift)
    text = f"the catalogue is shifted by ({dx:+.1f}, {dy:+.1f}) px against the frame{_convention(dx, dy)}"
    return Alignment("shifted", text, dx=dx, dy=dy, matched_after=after, **shares)


def _convention(dx: float, dy: float) -> str:
    """The mistake that such a shift is known for."""
    known = {
        -1.0: ": are its positions counted from 0 where 1 is meant?",
        1.0: ": are its positions counted from 1 where 0 is meant?",
        -0.5: ": do its positions count from the corner of the first pixel?",
        0.5: ": do its positions count from the corner of the first pixel?",
    }
    return next((text for step, text in known.items() if max(abs(dx - step), abs(dy - step)) < CONVENTION), "")
