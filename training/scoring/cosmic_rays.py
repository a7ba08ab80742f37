"""A frame without its cosmic rays and hot pixels, for the rival that needs it: L.A.Cosmic, by astroscrappy."""

from dataclasses import replace

import numpy as np
import sep

from lynceus.frame import Frame
from training.errors import TrainingError

MESH = 64  # pixels


def without_cosmic_rays(frame: Frame, sharpness: float = 5.0) -> Frame:
    """Replace what is sharper than any optics by the mean of what is around it.

    Parameters
    ----------
    frame : Frame
        Of shape (H, W); its sky tells the noise of an empty pixel, its gain that of light.
    sharpness : float
        How much sharper than a star something must be to be replaced (`objlim`).

    Raises
    ------
    TrainingError
        If astroscrappy is not installed.

    Notes
    -----
    van Dokkum (2001).
    """
    try:
        from astroscrappy import detect_cosmics
    except ImportError as error:
        raise TrainingError("astroscrappy is not installed: pip install 'lynceus[training]'") from error
    mask = frame.mask
    pixels = np.where(mask, np.float32(np.nanmedian(frame.pixels)), frame.pixels)
    sky = sep.Background(pixels, mask=mask, bw=MESH, bh=MESH, fw=3, fh=3)
    light = np.clip(pixels - sky.back(), 0, None)
    variance = (sky.rms() ** 2 + light / (frame.facts.gain or np.inf)).astype(np.float32)
    full = np.inf if frame.facts.saturation is None else frame.facts.saturation
    _, clean = detect_cosmics(pixels, inmask=mask, invar=variance, satlevel=full, objlim=sharpness)
    return replace(frame, pixels=np.where(mask, np.float32(np.nan), clean.astype(np.float32)))
