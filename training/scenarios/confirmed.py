"""What a truth that was extracted lacks: objects close to brighter ones, confirmed by two telescopes.

An extraction draws one outline around all that touches, and what it does not take apart is not in its list. A finder
that does take it apart would be scored as wrong. Here the light decides, and no finder: a peak of the stack of all
other bands, which the frames of each telescope by itself confirm.
"""

from collections.abc import Sequence

import numpy as np
import sep
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import cKDTree

from lynceus.detections import Floats
from lynceus.figures import Figures
from lynceus.frame import Frame
from lynceus.sources import FWHM_PER_SIGMA
from training.scenarios.field import Field, stack_of
from training.scenarios.listings import Place

PEAK = 4.0  # of all bands together, in standard deviations of the contrast
EACH = 2.5  # of each telescope: the spikes, ghosts and trails of one are not the other's
SURROUNDINGS = 2.0  # widths of the source that are taken from it: the wings of a bright neighbour do not count
MESH = 10  # pixels: the level and the scatter of the contrast are measured on squares of this side
SHIFTED = 97  # pixels: how far one telescope's sky is moved, to see how often both agree by chance


class Missing(Figures):
    """How many objects a truth lacks, and how many of these two telescopes would confirm by chance."""

    objects: int
    by_chance: int


def missing_places(field: Field, optical: Sequence[Frame], infrared: Sequence[Frame]) -> tuple[Floats, Missing]:
    """Find what the truth of a field lacks.

    Parameters
    ----------
    field : Field
        The frame that is judged, which has no say in it, and the truth.
    optical, infrared : sequence of Frame
        The bands of either telescope, without the one that is judged.

    Returns
    -------
    places : ndarray, shape (N, 2)
        `x, y`, 0-based pixel centres.
    missing : Missing
        How many, and how many by chance.
    """
    first, second = (stack_of(frames) for frames in (optical, infrared))
    places = _lacking(field, first, second)
    by_chance = _lacking(field, first, np.roll(second, (SHIFTED, SHIFTED), (0, 1)))
    return places, Missing(objects=len(places), by_chance=len(by_chance))


def completed(place: Place, missing: Floats, fwhm: float) -> Place:
    """The truth with the objects it lacked, each within `fwhm` pixels."""
    count = len(missing)
    return Place(
        np.concatenate([place.positions, missing]),
        np.concatenate([place.snr, np.full(count, np.nan)]),
        np.concatenate([place.fwhm, np.full(count, fwhm)]),
        place.shape,
        np.concatenate([place.aside, np.zeros(count, bool)]),
    )


def contrast(stack: Floats, fwhm: float) -> Floats:
    """A stack in a Gaussian of the seeing less its surroundings, (H, W), over the level and in the scatter around it.

    Notes
    -----
    Both are local, for a galaxy or the halo of a bright star has a level and a noise of its own; the scatter is nowhere
    less than the lower side of the whole frame's, on which no sources are.
    """
    width = fwhm / FWHM_PER_SIGMA
    plane = gaussian_filter(stack.astype(np.float32), width)
    plane -= gaussian_filter(stack.astype(np.float32), SURROUNDINGS * width)
    low, middle = np.percentile(plane, [15.87, 50])
    local = sep.Background(plane, bw=MESH, bh=MESH)
    return np.asarray((plane - local.back()) / np.maximum(local.rms(), middle - low))


def _lacking(field: Field, first: Floats, second: Floats) -> Floats:
    """Peaks of two stacks together, seen in each, that are no object of the truth yet, `x, y`, (N, 2)."""
    together = contrast(first + second, field.fwhm)
    one, other = contrast(first, field.fwhm), contrast(second, field.fwhm)
    apart = 2 * int(round(field.fwhm) // 2) + 1
    peaks = (together == maximum_filter(together, apart)) & (together > PEAK) & (one > EACH) & (other > EACH)
    rows, columns = np.nonzero(peaks)
    places = np.stack([columns, rows], axis=1).astype(np.float64)
    if not len(field.place):
        return places
    distance, nearest = cKDTree(field.place.positions).query(places)
    return np.asarray(places[distance > field.place.fwhm[nearest]])
