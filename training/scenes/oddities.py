"""The odd frames of an archive: what is wrong with them, or remarkable, and how it comes about."""

from typing import Literal, get_args

import numpy as np
from astropy.io import fits
from astropy.table import Table

from training.scenes.ranges import SceneSpec
from training.scenes.scene import Planned

Oddity = Literal[
    "no_catalogue", "saturated", "copy", "trail", "foreign_catalogue", "comet", "repeat", "galaxy", "empty_catalogue",
    "light_leak", "binary", "pattern", "defocused",
]  # fmt: skip
ODDITIES: tuple[Oddity, ...] = get_args(Oddity)
LABELS: dict[str, str] = {"saturated": "OK,ESO", "trail": "TRACE", "binary": "OK,BINARY", "defocused": "KO"}
LEAK = (3.0, 8.0)  # of the sky


def hand_label(oddity: Oddity | None) -> str:
    """What a person who looked at such a frame has noted; the empty string where nobody looked."""
    return LABELS.get(oddity or "", "")


def odd_scene(oddity: Oddity | None, scene: SceneSpec) -> SceneSpec:
    """The ranges an odd frame is drawn from."""
    changes: dict[str, dict[str, object]] = {
        "saturated": {"bright": 0},
        "trail": {"clean": 0, "trails": 4 / scene.area},
        "pattern": {"fringes": 1, "amplifiers": 1},
        "defocused": {"defocused": 1, "measured": 0, "ring": (4.0, 5.0)},
    }
    return scene.model_copy(update=changes.get(oddity or "", {}))


def odd_sources(oddity: Oddity | None, side: int, rng: np.random.Generator) -> list[Planned]:
    """What an odd frame shows besides its field, given the side of the raw frame."""
    if oddity not in ("saturated", "comet", "galaxy", "binary"):
        return []
    column, row = (int(value) for value in rng.integers(side // 3, 2 * side // 3, 2))
    middle, angle = (4, 4), float(rng.uniform(0, np.pi))
    if oddity == "saturated":
        return [Planned("star", column, row, middle, 0.0, flux=float(rng.uniform(1e7, 5e7)))]
    if oddity == "comet":
        return [Planned("comet", column, row, middle, 800.0, shape=(12.0, 50.0, angle))]
    if oddity == "galaxy":
        return [Planned("galaxy", column, row, middle, 2000.0, shape=(25.0, 0.5, 0.6, angle))]
    return [Planned("star", column + step, row, middle, 900.0 - 20 * step) for step in (0, 7)]


def add_leak(hdu: fits.PrimaryHDU, truth: Table, scene: SceneSpec, rng: np.random.Generator) -> None:
    """Let stray light in from one side, with its photon noise; sources in it have less signal to noise."""
    side, gain = len(hdu.data), hdu.header["GAIN"]
    across = np.abs(rng.integers(2) * (side - 1) - np.arange(side)) / side
    sky = max(float(np.median(hdu.data)), 1.0)
    profile = sky * rng.uniform(*LEAK) * np.exp(-across / 0.25)
    glow = rng.poisson(np.broadcast_to(profile, hdu.data.shape) * gain) / gain
    leaked = np.minimum(hdu.data + glow, max(hdu.header["SATURATE"], float(hdu.data.max())))
    hdu.data = (np.rint(leaked) if hdu.data.dtype.kind == "u" else leaked).astype(hdu.data.dtype)
    column = np.clip(np.rint(np.asarray(truth["x"])).astype(int), 0, side - 1)
    before = sky / gain + (hdu.header["RDNOISE"] / gain) ** 2
    truth["snr"] *= np.sqrt(before / (before + profile[column] / gain))
    truth["ignored"] |= truth["snr"] < scene.ignore_snr
