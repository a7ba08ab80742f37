"""What a frame itself says of each detection, beside the network's score; works without torch."""

import numpy as np
from scipy.spatial import cKDTree

from lynceus.detections import Detections, Floats
from lynceus.frame import Frame
from lynceus.matched import filter_noise, filtered
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
SMALLEST = 0.5  # pixels, standard deviation of a source


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
