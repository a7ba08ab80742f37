"""A finer look at frames whose stars are hardly wider than their pixels: every pixel is shown as several."""

import numpy as np
from pydantic import Field
from scipy.ndimage import zoom

from lynceus.frame import Frame
from lynceus.measure import MeasureSpec
from lynceus.sky import Sky, SkySpec, estimate_sky
from lynceus.spec import Spec
from lynceus.unlisted import seeing


class FineSpec(Spec):
    """When and how a frame is enlarged before the network looks at it.

    Attributes
    ----------
    factor : int
        A pixel becomes so many on a side, all of its value: smooth interpolation makes noise look like faint stars.
    seeing : float
        Frames of a larger FWHM of point sources are looked at as they are, in pixels.
    probe : int
        The seeing is measured on the middle of the frame, a square of so many pixels.
    """

    factor: int = Field(2, ge=2, le=4)
    seeing: float = Field(1.8, gt=0)
    probe: int = Field(1024, ge=64)


def fine_scale(frame: Frame, spec: FineSpec, sky: SkySpec, measure: MeasureSpec) -> int:
    """By what a frame is to be enlarged: 1 where its stars are wide enough, or too few to tell.

    Parameters
    ----------
    frame : Frame
        Of any size.
    spec : FineSpec
        The limit.
    sky, measure : Spec
        How the sky is estimated and sources are measured.
    """
    rows, columns = (slice(max(length - spec.probe, 0) // 2, (length + spec.probe) // 2) for length in frame.shape)
    middle = Frame(np.ascontiguousarray(frame.pixels[rows, columns]), frame.facts, frame.quantum)
    if not np.isfinite(middle.pixels).any():
        return 1
    fwhm = seeing(middle, estimate_sky(middle, sky), measure)
    return spec.factor if fwhm is not None and fwhm <= spec.seeing else 1


def enlarged(frame: Frame, sky: Sky, factor: int) -> tuple[Frame, Sky]:
    """Repeat every pixel `factor` times along both axes, and lay the same sky under it.

    Parameters
    ----------
    frame : Frame
        Of shape (H, W).
    sky : Sky
        Of the frame.
    factor : int
        1 for the frame as it is.

    Returns
    -------
    Frame
        Of shape (factor H, factor W); edge coordinates on it are `factor` times those on the frame.
    Sky
        Its level and noise, on squares of as many pixels as before, so that its tiles go with those of any frame.
    """
    if factor == 1:
        return frame, sky
    shape = (factor * frame.shape[0], factor * frame.shape[1])
    pixels = np.repeat(np.repeat(frame.pixels, factor, axis=0), factor, axis=1)
    squares = tuple(slice(-(-length // sky.mesh)) for length in shape)
    level, log_noise = (
        zoom(one, factor, order=1, mode="nearest", grid_mode=True)[squares] for one in (sky.level, np.log(sky.noise))
    )
    return Frame(pixels, frame.facts, frame.quantum), Sky(level, np.exp(log_noise), sky.mesh, shape)
