"""What a frame itself says of each detection, beside the network's score; works without torch."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from lynceus.detections import Detections, Floats
from lynceus.frame import Frame
from lynceus.sky import Sky
from lynceus.sources import FWHM_PER_SIGMA

ITS_OWN = ("score", "signal", "contrast", "size", "apart")  # of a detection
FEATURES = (*ITS_OWN, "crowding", "evenness", "doubt")  # the last ones are the frame's, the same for all on it
RISING = ("score", "signal", "contrast")  # a detection with more of it is never less sure
CERTAIN = 1e-4  # scores closer to 0 or 1 than this are taken as this close
SURE, FEWEST = 0.8, 5  # detections of a higher score tell the seeing; with fewer of them the surest do
WEAKEST = 0.5  # signal to noise that nothing is taken below
FARTHEST = 10.0  # in units of the seeing
LIKELY = -2.0  # logit of a score from which on a detection that is not sure is a doubtful one
USUAL = 5  # sure and doubtful detections that any frame is taken to have besides its own
EVEN = 0.1  # evenness of a flat sky with white noise: what is taken where too few detections are sure
UNEVEN, CLEAR = -1.5, 2.5  # limits of the evenness, and of the doubt either way
BACKGROUND = 2.0  # widths of the source that its surroundings are taken from
REACH = 4.0  # widths of the source to the border of its stamp
LARGEST = 24  # samples from the middle of a stamp to its border; of larger sources every second, third... pixel is one
SMALLEST = 0.5  # pixels, standard deviation of a source
SAMPLES = 4000  # places on the frame that tell the noise of a filter; fewer of a wide one, for it costs more
SAMPLED = 1_200_000  # pixels that they may take
FEW_SAMPLES = 200  # with fewer, the noise is taken as white
RUNGS = 6  # widths at which it is measured
CLIP, ROUNDS = (5.0, 2.0), 8  # standard deviations below and above; sources are above
CHUNK = 1_000_000  # stamp pixels held at once


def evidence(frame: Frame, sky: Sky, detections: Detections, box_scale: float = 2.5) -> Floats:
    """Measure what tells sources from noise.

    Parameters
    ----------
    frame : Frame
        Where they were found.
    sky : Sky
        Of the frame.
    detections : Detections
        N of them.
    box_scale : float
        The box rule: side of a box over the source's observed FWHM.

    Returns
    -------
    ndarray, shape (N, 8), float64
        A column for each of `FEATURES`: the logit of the score; the logarithm of the signal to noise in a Gaussian
        filter of the box's size, and in the same filter less its surroundings; that of the size over the seeing; and
        of the distance to the nearest surer detection, in units of the seeing. Then those of `of_the_frame`.

    Notes
    -----
    The noise is what these very filters meet on this frame: the scatter of their values over a lattice of places,
    taken on its lower side, where no sources are. So noise that is correlated between pixels, and a sky that is not
    flat, count as they should.
    """
    if not len(detections):
        return np.zeros((0, len(FEATURES)))
    x, y = detections.centres
    sides = (detections.boxes[:, 2:] - detections.boxes[:, :2]).astype(np.float64)
    width = np.maximum(np.sqrt(sides.prod(axis=1)) / (box_scale * FWHM_PER_SIGMA), SMALLEST)
    score = np.clip(detections.scores.astype(np.float64), CERTAIN, 1 - CERTAIN)
    seeing = _seeing(width, score)
    ratio = filtered(frame, sky, x, y, width) / filter_noise(frame, sky, width)
    signal, contrast = np.log(np.maximum(ratio, WEAKEST)).T
    apart = np.log(np.clip(_to_surer(x, y, score) / (FWHM_PER_SIGMA * seeing), 1 / FARTHEST, FARTHEST))
    own = np.stack([np.log(score / (1 - score)), signal, contrast, np.log(width / seeing), apart], axis=1)
    return np.column_stack([own, np.tile(of_the_frame(own), (len(own), 1))])


def of_the_frame(own: Floats) -> Floats:
    """What kind of frame it is, by the detections on it: how probable one is depends on that, too.

    Parameters
    ----------
    own : ndarray, shape (N, 5)
        A column for each of `ITS_OWN`.

    Returns
    -------
    ndarray, shape (3,)
        `crowding`, how close to one another the sure detections are: the mean logarithm of `FARTHEST` over the
        distance; `evenness`, the median logarithm of their signal over their contrast: low where the sky has structure
        of the size of sources; and `doubt`, the logarithm of how many detections are doubtful for every sure one.

    Notes
    -----
    A score is right on the mixture of frames that it was learned on. Where there are more sources than usual, a
    doubtful detection is more often one, and where there are many doubtful detections, less often: the prior of the
    frame (as in Saerens et al. 2002), put in terms that also hold for frames whose noise is not the usual one.
    """
    score, signal, contrast, _, apart = own.T
    sure = score > np.log(SURE / (1 - SURE))
    doubtful = (score > LIKELY) & ~sure
    doubt = np.clip(np.log((doubtful.sum() + USUAL) / (sure.sum() + USUAL)), -CLEAR, CLEAR)
    if sure.sum() < FEWEST:
        return np.array([0.0, EVEN, doubt])
    evenness = np.clip(np.median((signal - contrast)[sure]), UNEVEN, -UNEVEN)
    return np.array([np.log(FARTHEST) - apart[sure].mean(), evenness, doubt])


def filtered(frame: Frame, sky: Sky, x: Floats, y: Floats, width: Floats) -> Floats:
    """Filter a frame at some places.

    Parameters
    ----------
    frame : Frame
        A pixel without a value, or outside, counts as sky.
    sky : Sky
        Of the frame.
    x, y : ndarray, shape (N,)
        0-based pixel centres.
    width : ndarray, shape (N,)
        Standard deviation of the Gaussian, in pixels.

    Returns
    -------
    ndarray, shape (N, 2)
        In the Gaussian, and in the Gaussian less one twice as wide; in standard deviations, were the noise white.
    """
    level, noise = _sky_at(sky, x, y)
    values = np.zeros((len(x), 2))
    for members, half, step in _groups(width):
        offsets = step * np.arange(-half, half + 1)
        columns, dx = _axis(x[members], offsets)
        rows, dy = _axis(y[members], offsets)
        stamps = _stamps(frame.pixels, rows, columns)
        stamps -= level[members, None, None]
        np.nan_to_num(stamps, copy=False, nan=0.0)
        s = width[members, None]
        near, far = (
            np.einsum("nij,ni,nj->n", stamps, _gaussian(dy, k * s), _gaussian(dx, k * s)) / k for k in (1.0, BACKGROUND)
        )
        unit = step / (np.sqrt(np.pi) * width[members] * noise[members])
        values[members] = np.stack([near * unit, (near - far / BACKGROUND) * unit], axis=1)
    return values


def filter_noise(frame: Frame, sky: Sky, width: Floats) -> Floats:
    """The scatter of both filters of `filtered` on the sky of this frame; 1 and 0.67 were it white and finely sampled.

    Parameters
    ----------
    frame, sky : Frame, Sky
        The frame and its sky.
    width : ndarray, shape (N,)
        Standard deviation of the Gaussian, in pixels.

    Returns
    -------
    ndarray, shape (N, 2)
        At each width, between those measured on a straight line in logarithms.
    """
    rungs = np.unique(np.geomspace(width.min(), width.max(), RUNGS))
    scatter = np.array([_scatter_at(frame, sky, one) for one in rungs])
    at = np.log(width)
    return np.stack([np.exp(np.interp(at, np.log(rungs), np.log(column))) for column in scatter.T], axis=1)


def _seeing(width: Floats, score: Floats) -> float:
    """Where the widths of the sure detections lie closest: stars are alike, galaxies and faults are scattered."""
    chosen = score > SURE
    if chosen.sum() < FEWEST:
        chosen = score >= np.sort(score)[-min(FEWEST, len(score))]
    ordered = np.sort(np.log(width[chosen]))
    enough = max(len(ordered) // 8, 4)
    while len(ordered) > enough:
        half = -(-len(ordered) // 2)
        spans = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
        first = int(np.argmin(spans))
        ordered = ordered[first : first + half]
    return float(np.exp(np.median(ordered)))


def _to_surer(x: Floats, y: Floats, score: Floats, neighbours: int = 8) -> Floats:
    """Distance to the nearest of some neighbours that has a higher score, in pixels, (N,); infinite without."""
    places = np.stack([x, y], axis=1)
    distance, index = cKDTree(places).query(places, k=list(range(2, neighbours + 2)))
    surer = np.append(score, -1.0)[index] > score[:, None]  # a neighbour that is not there has the index N
    return np.asarray(np.where(surer, distance, np.inf).min(axis=1))


def _sky_at(sky: Sky, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Level and noise at some places, in ADU, (N,) each."""
    at = [(y + 0.5) / sky.mesh - 0.5, (x + 0.5) / sky.mesh - 0.5]
    level, noise = (map_coordinates(part, at, np.float64, order=1, mode="nearest") for part in (sky.level, sky.noise))
    return level, noise


def _groups(width: Floats) -> Iterator[tuple[NDArray[np.intp], int, int]]:
    """Places that share a stamp: indices, samples from the middle to the border, pixels from one to the next."""
    rung = np.ceil(4 * np.log2(width)).astype(int)
    for one in np.unique(rung):
        members = np.flatnonzero(rung == one)
        reach = int(np.ceil(REACH * 2 ** (one / 4)))
        step = -(-reach // LARGEST)
        half = -(-reach // step)
        count = max(CHUNK // (2 * half + 1) ** 2, 1)
        for first in range(0, len(members), count):
            yield members[first : first + count], half, step


def _axis(centre: Floats, offsets: NDArray[np.intp]) -> tuple[NDArray[np.intp], Floats]:
    """Pixels along one axis, and how far each is from the centre, (N, S) both."""
    pixels = np.rint(centre).astype(int)[:, None] + offsets
    return pixels, pixels - centre[:, None]


def _stamps(pixels: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Floats:
    """Pixels (N, S, S), NaN outside the frame."""
    height, width = pixels.shape
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    values = pixels[np.clip(rows, 0, height - 1)[:, :, None], np.clip(columns, 0, width - 1)[:, None, :]]
    return np.where(inside, values.astype(np.float64), np.nan)


def _gaussian(offset: Floats, width: Floats) -> Floats:
    return np.asarray(np.exp(-0.5 * (offset / width) ** 2))


def _scatter_at(frame: Frame, sky: Sky, width: float) -> Floats:
    """The scatter of both filters at one width, (2,)."""
    side = 2 * min(REACH * width, LARGEST) + 1
    x, y = _lattice(frame, min(SAMPLES, int(SAMPLED / side**2)))
    return _scatter_of(filtered(frame, sky, x, y, np.full(len(x), width)))


def _lattice(frame: Frame, count: int) -> tuple[Floats, Floats]:
    """Some `count` places all over the frame that have a value, `x, y`."""
    height, width = frame.shape
    step = max(int(np.sqrt(height * width / count)), 1)
    rows, columns = (axis.ravel() for axis in np.mgrid[step // 2 : height : step, step // 2 : width : step])
    seen = ~np.isnan(frame.pixels[rows, columns])
    return columns[seen].astype(np.float64), rows[seen].astype(np.float64)


def _scatter_of(values: Floats) -> Floats:
    """Standard deviation of each column (M, 2) below its median, sources clipped away; of white noise if too few."""
    white = np.array([1.0, np.sqrt(1 - 2 * 2 / (1 + BACKGROUND**2) + BACKGROUND**-2)])
    if len(values) < FEW_SAMPLES:
        return white
    scatter = np.array([_low_side(np.sort(column)) for column in values.T])
    return np.asarray(np.maximum(scatter, 0.1 * white))


def _low_side(ordered: Floats) -> float:
    below, above = CLIP
    for _ in range(ROUNDS):
        median, low = ordered[len(ordered) // 2], ordered[int(0.1587 * len(ordered))]
        first, last = np.searchsorted(ordered, [median - below * (median - low), median + above * (median - low)])
        if last - first in (0, len(ordered)):
            break
        ordered = ordered[first:last]
    return float(median - low)
